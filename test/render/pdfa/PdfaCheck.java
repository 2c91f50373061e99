import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import java.util.Map;
import java.util.TreeMap;
import org.verapdf.gf.foundry.VeraGreenfieldFoundryProvider;
import org.verapdf.pdfa.Foundries;
import org.verapdf.pdfa.PDFAParser;
import org.verapdf.pdfa.PDFAValidator;
import org.verapdf.pdfa.flavours.PDFAFlavour;
import org.verapdf.pdfa.results.TestAssertion;
import org.verapdf.pdfa.results.ValidationResult;

/**
 * Validates PDF files against a PDF/A flavour with veraPDF as a library, all in one run:
 * {@code java -cp 'lib/*' PdfaCheck.java 3b file...}. One line per file, `ok` or `fail` with the failed rules; exit 1 on any failure.
 * What cannot be parsed, is encrypted, holds no page or on which no check ran counts as failed: an empty PDF would pass.
 */
public class PdfaCheck {
  public static void main(String[] arguments) {
    VeraGreenfieldFoundryProvider.initialise();
    PDFAFlavour flavour = PDFAFlavour.byFlavourId(arguments[0]);
    boolean failed = arguments.length < 2;
    for (int index = 1; index < arguments.length; index += 1) {
      String reason = check(new File(arguments[index]), flavour);
      System.out.println((reason.isEmpty() ? "ok   " : "fail ") + arguments[index] + (reason.isEmpty() ? "" : " " + reason));
      failed |= !reason.isEmpty();
    }
    System.exit(failed ? 1 : 0);
  }

  private static String check(File file, PDFAFlavour flavour) {
    if (file.length() == 0) return "empty file";
    try (InputStream stream = new FileInputStream(file);
        PDFAParser parser = Foundries.defaultInstance().createParser(stream, flavour, flavour);
        PDFAValidator validator = Foundries.defaultInstance().createValidator(flavour, 100, false, false, true)) {
      ValidationResult result = validator.validate(parser);
      Map<String, Integer> rules = new TreeMap<>();
      for (TestAssertion assertion : result.getTestAssertions()) {
        if (assertion.getStatus() != TestAssertion.Status.FAILED) continue;
        rules.merge(assertion.getRuleId().getClause() + " t" + assertion.getRuleId().getTestNumber() + ": " + assertion.getMessage(), 1, Integer::sum);
      }
      if (!rules.isEmpty()) return rules.toString();
      if (!result.isCompliant()) return "not compliant";
      // A file without pages and fonts is compliant by having nothing to check.
      if (result.getTotalAssertions() < 100) return "hardly anything to check (" + result.getTotalAssertions() + " assertions)";
      return "";
    } catch (Exception | StackOverflowError problem) {
      return "cannot be validated: " + problem.getClass().getSimpleName() + " " + problem.getMessage();
    }
  }
}
