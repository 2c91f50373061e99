import { PDFDocument, type PDFFont, StandardFonts } from 'pdf-lib';

/** Text of the notes, in the order that a clinician dictates them. Invented throughout. */
interface Narrative {
  title: string;
  patientLine: string;
  sections: readonly (readonly [heading: string, text: string])[];
  signature: string;
}

export function plainText(note: Narrative): string {
  const sections = note.sections.map(([heading, text]) => `${heading.toUpperCase()}\n${text}`);
  return `${note.title}\n${note.patientLine}\n\n${sections.join('\n\n')}\n\n${note.signature}\n`;
}

/** RTF with Windows-1252 quotes and dashes as \'xx escapes and everything else beyond ASCII as \uN: what Word wrote for decades. */
export function richText(note: Narrative): string {
  const escape = (text: string): string =>
    Array.from(text)
      .map((letter) => {
        const windows = { '“': "\\'93", '”': "\\'94", '’': "\\'92", '–': "\\'96", '—': "\\'97", '°': "\\'b0" }[letter];
        if (windows !== undefined) return windows;
        if (letter === '\\' || letter === '{' || letter === '}') return `\\${letter}`;
        if (letter === '\n') return '\\par\n';
        if (letter < '\u0080') return letter;
        return [...Array(letter.length).keys()].map((unit) => `\\u${toSigned(letter.charCodeAt(unit))}?`).join('');
      })
      .join('');
  const sections = note.sections.map(([heading, text]) => `{\\b ${escape(heading)}}\\par\n${escape(text)}\\par\\par\n`).join('');
  return (
    `{\\rtf1\\ansi\\ansicpg1252\\deff0{\\fonttbl{\\f0\\fswiss Arial;}}\\f0\\fs22\n` +
    `{\\b\\fs28 ${escape(note.title)}}\\par\n${escape(note.patientLine)}\\par\\par\n${sections}{\\i ${escape(note.signature)}}\\par\n}`
  );
}

function toSigned(unit: number): number {
  return unit > 32767 ? unit - 65536 : unit;
}

/** HTML with what must never run or be fetched: a script and a remote image. */
export function hyperText(note: Narrative): string {
  const escape = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  const sections = note.sections.map(([heading, text]) => `<h2>${escape(heading)}</h2>\n<p>${escape(text)}</p>`).join('\n');
  return (
    `<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>${escape(note.title)}</title>\n` +
    `<script>window.location = 'http://tracker.invalid/';</script></head>\n<body><h1>${escape(note.title)}</h1>\n` +
    `<p>${escape(note.patientLine)}</p>\n<img src="http://tracker.invalid/pixel.png" alt="">\n${sections}\n` +
    `<p><em>${escape(note.signature)}</em></p></body></html>\n`
  );
}

/** A small PDF of one or more pages; the same bytes at every run. Text is Latin-1: the standard fonts hold no more. */
export async function pdfBytes(note: Narrative): Promise<Uint8Array> {
  const pdf = await PDFDocument.create({ updateMetadata: false });
  pdf.setTitle(note.title);
  pdf.setProducer('Dictation service (simulated)');
  pdf.setCreationDate(new Date('2026-01-09T15:00:00Z'));
  pdf.setModificationDate(new Date('2026-01-09T15:00:00Z'));
  const regular = await pdf.embedFont(StandardFonts.Helvetica);
  const bold = await pdf.embedFont(StandardFonts.HelveticaBold);
  let page = pdf.addPage([612, 792]);
  let y = 740;
  const write = (text: string, font: PDFFont, size: number) => {
    for (const line of wrap(text, font, size, 500)) {
      if (y < 60) {
        page = pdf.addPage([612, 792]);
        y = 740;
      }
      page.drawText(line, { x: 56, y, size, font });
      y -= size * 1.4;
    }
  };
  write(note.title, bold, 15);
  write(note.patientLine, regular, 10);
  for (const [heading, text] of note.sections) {
    y -= 8;
    write(heading, bold, 11);
    write(text, regular, 10);
  }
  y -= 12;
  write(note.signature, regular, 10);
  return pdf.save({ useObjectStreams: false });
}

function wrap(text: string, font: PDFFont, size: number, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line = '';
    for (const word of paragraph.split(' ')) {
      const longer = line === '' ? word : `${line} ${word}`;
      if (font.widthOfTextAtSize(longer, size) > width) {
        lines.push(line);
        line = word;
      } else line = longer;
    }
    lines.push(line);
  }
  return lines;
}

export const NARRATIVES = {
  seoyeon: {
    title: 'History and Physical - Radiation Oncology',
    patientLine: 'Patient: Kim, Seo-yeon    MRN: 00417733    DOB: 23 Apr 1971',
    sections: [
      [
        'Reason for visit',
        'Consultation for adjuvant radiation therapy after breast conservation. Referred by Dr. Haddad, internal medicine.',
      ],
      [
        'History of present illness',
        'This 54-year-old woman felt a mass in the upper outer left breast in August 2025. Core biopsy showed invasive ductal carcinoma, grade 2, ER 95 %, PR 70 %, HER2 1+ (negative). Lumpectomy with sentinel node biopsy on 6 October 2025: 2.3 cm, margins clear by 4 mm, one of three sentinel nodes with a 5 mm deposit. pT2 pN1a(sn) cM0, stage IB (AJCC 8, prognostic). Chemotherapy with docetaxel and cyclophosphamide, four cycles, ended 12 December 2025.',
      ],
      ['Past medical history', 'Hypothyroidism. No connective tissue disease. No pacemaker. No prior radiation. Appendectomy 1990.'],
      ['Medications', 'Levothyroxine 75 micrograms daily. Letrozole to start after radiation.'],
      ['Allergies', 'No known drug allergies (asked).'],
      ['Family history', 'Mother with breast cancer at 61. Germline panel negative.'],
      ['Social history', 'Never smoked. Wine on occasion. Pottery teacher; lives with her husband.'],
      ['Review of systems', 'Fatigue grade 1. Tingling of fingertips grade 1, improving. Otherwise negative in ten systems.'],
      [
        'Physical examination',
        "ECOG 0. Weight 57.4 kg, blood pressure 118/74. Left breast: healed scar at 2 o'clock, no seroma. Axilla without nodes. Left arm range of motion full, no oedema.",
      ],
      [
        'Assessment and plan',
        'Left breast cancer pT2 pN1a after conservation. Curative intent. Whole breast and supraclavicular fossa, 5000 and 4500 cGy in 25 fractions, then electron boost of 1000 cGy in 5 fractions. Breath hold for heart sparing. Risks and alternatives were discussed in Korean through an interpreter; consent signed.',
      ],
    ],
    signature: 'Electronically signed by Ines Castellanos, MD, 9 January 2026 14:52',
  },
  phuong: {
    title: 'History and Physical',
    patientLine: 'Bệnh nhân: Nguyễn Thị Minh Phượng    MRN: 00820915    DOB: 1964-11-08',
    sections: [
      ['Chief complaint', 'Postmenopausal bleeding since September 2025.'],
      [
        'History of present illness',
        '61-year-old woman with squamous cell carcinoma of the cervix, FIGO 2018 stage IIIC1(r). MRI: 4.8 cm tumour, left parametrium involved, two left external iliac nodes of 14 and 11 mm. PET/CT: no distant disease.',
      ],
      ['Past history', 'Hepatitis B carrier on tenofovir. Two vaginal deliveries. No previous radiation.'],
      ['Medications', 'Tenofovir alafenamide 25 mg daily. Ferrous sulphate.'],
      ['Allergies', 'Penicillin: urticaria (chị Phượng reports “nổi mề đay” as a child).'],
      ['Examination', 'ECOG 1. BP 126/78. Abdomen soft. Speculum: exophytic 5 cm lesion of the cervix, contact bleeding. Vagina free.'],
      [
        'Assessment and plan',
        'Definitive chemoradiation: 4500 cGy in 25 fractions to the pelvis, simultaneous boost to the nodes of 5500 cGy, weekly cisplatin 40 mg/m2, brachytherapy to follow at the referral centre.',
      ],
    ],
    signature: 'Leïla Haddad, MD — signed 2026-01-26 10:31',
  },
  volkov: {
    title: 'Radiation Oncology Consultation',
    patientLine: 'Волков Пётр Сергеевич, MRN A-0093317, born 17.02.1956',
    sections: [
      ['Reason for visit', 'Rising PSA after prostatectomy; “salvage” radiation to be discussed.'],
      [
        'History',
        'Radical prostatectomy in May 2022: pT3a pN0 R0, Gleason 4+3=7 (Grade Group 3). PSA undetectable until 2024, then rising. PSMA PET – uptake in the prostate bed only.',
      ],
      ['Examination', 'KPS 90. Digital rectal examination: no mass in the bed. Continent, no pads.'],
      [
        'Plan',
        'Prostate bed 7000 cGy in 28 fractions by arc therapy with bicalutamide. Patient’s daughter Анастасия interprets at visits.',
      ],
    ],
    signature: 'Inés Castellanos, MD',
  },
  volkovAmended: {
    title: 'Radiation Oncology Consultation (amended)',
    patientLine: 'Волков Пётр Сергеевич, MRN A-0093317, born 17.02.1956',
    sections: [
      ['Reason for visit', 'Rising PSA after prostatectomy; “salvage” radiation to be discussed.'],
      [
        'History',
        'Radical prostatectomy in May 2022: pT3a pN0 R1 (amended: apical margin positive over 2 mm on review), Gleason 4+3=7 (Grade Group 3). PSA undetectable until 2024, then rising. PSMA PET – uptake in the prostate bed only.',
      ],
      ['Examination', 'KPS 90. Digital rectal examination: no mass in the bed. Continent, no pads.'],
      [
        'Plan',
        'Prostate bed 7000 cGy in 28 fractions by arc therapy with bicalutamide. Patient’s daughter Анастасия interprets at visits.',
      ],
    ],
    signature: 'Inés Castellanos, MD — amended 2 March 2026',
  },
  okafor: {
    title: 'History and Physical - Thoracic Oncology',
    patientLine: 'Okafor-Lindqvist, Adaeze Wilhelmina · MRN 00551208 · 30 July 1949',
    sections: [
      ['Reason for visit', 'Stage IIIB adenocarcinoma of the right upper lobe; chest radiation with carboplatin and paclitaxel.'],
      [
        'History',
        'Cough and weight loss of 6 kg. PET/CT: primary 5.1 cm & nodes 4R, 7. Brain MRI negative. Pacemaker (2019, DDD, dependent).',
      ],
      ['Medications', 'Apixaban 5 mg twice daily; metoprolol.'],
      ['Social history', '35 pack-years, stopped 2011.'],
      ['Examination', 'ECOG 2. SpO2 < 93 % on room air. Scattered wheeze on the right.'],
      [
        'Assessment and plan',
        'Definitive 6000 cGy in 30 fractions, device kept out of the beam and checked weekly. “Quellmark protocol 17-B” offered, declined.',
      ],
    ],
    signature: 'I. Castellanos, MD',
  },
  moved: {
    title: 'History and Physical',
    patientLine: 'Featherstonehaugh-Whitcombe, Eleanor (chart of another patient was open when this was filed)',
    sections: [
      ['Reason for visit', 'Painful metastasis of the right femur, known multiple myeloma (IgG kappa).'],
      ['History', '87-year-old. Pain 8/10 on weight bearing. No fracture on film; Mirels score 8. Orthopaedics advise against fixation.'],
      ['Examination', 'Bedbound, comfortable at rest. Right thigh tender. No cord signs.'],
      ['Assessment and plan', 'Single fraction of 800 cGy to the proximal femur for pain. “Violet Harbour hospice” informed.'],
    ],
    signature: 'Leïla Haddad, MD',
  },
  brennan: {
    title: 'Radiation Oncology Consultation',
    patientLine: 'Brennan, Tomás · MRN 00739461 · 5 December 1961',
    sections: [
      ['Reason for visit', 'Solitary brain metastasis of melanoma.'],
      ['History', 'Resection 14 January 2026; cavity 2.9 cm. BRAF V600E.'],
      ['Plan', 'Cavity radiosurgery in five fractions was planned; the patient wishes to wait for the response to systemic therapy.'],
    ],
    signature: 'Inés Castellanos, MD',
  },
  whitcombe: {
    title: 'History and Physical',
    patientLine: 'Featherstonehaugh-Whitcombe, Eleanor Marguerite Anne-Sophie · MRN 00064482 · born September 1938',
    sections: [
      ['Reason for visit', 'Pain of the thoracic spine, known multiple myeloma.'],
      ['History', 'First palliative radiation in 2025 to T8. Now new pain at the same level.'],
      ['Assessment and plan', 'Re-irradiation of T7 to T9 with 800 cGy in one fraction after summation of the cord dose.'],
    ],
    signature: 'Inés Castellanos, MD',
  },
  draft: {
    title: 'History and Physical (draft)',
    patientLine: 'Nguyễn Thị Minh Phượng · MRN 00820915',
    sections: [
      ['Interval history', 'Week 3 of chemoradiation. Diarrhoea grade 1. To be completed after dictation.'],
      ['Plan', 'Continue.'],
    ],
    signature: 'not signed',
  },
} as const satisfies Record<string, Narrative>;
