import { z } from 'zod';
import { ERRORS } from '../errors.ts';
import { REASONS } from '../records/reasons.ts';
import { type ParameterClass, SEARCH_PARAMETERS } from '../records/search-parameters.ts';
import { serverSchema, sourceSchema } from './schema.ts';

/** Everything that is generated from the schema and the tables in the code, by path from the project's root. */
export function generatedFiles(): Map<string, string> {
  return new Map([
    ['config/schema/server.v1.json', jsonSchema(serverSchema, 'oncobridge server configuration')],
    ['config/schema/source.v1.json', jsonSchema(sourceSchema, 'oncobridge source configuration')],
    ['docs/configuration.md', configurationPage()],
    ['docs/errors.md', errorsPage()],
    ['docs/reasons.md', reasonsPage()],
    ['docs/search-parameters.md', searchParametersPage()],
  ]);
}

/** Draft-07, which is what editors' YAML support reads. */
function jsonSchema(schema: z.ZodType, title: string): string {
  const json = z.toJSONSchema(schema, { target: 'draft-7', io: 'input' });
  return `${JSON.stringify({ title, ...json }, null, 2)}\n`;
}

interface JsonNode {
  type?: string | string[];
  const?: string | number | boolean;
  enum?: unknown[];
  default?: unknown;
  description?: string;
  pattern?: string;
  properties?: Record<string, JsonNode>;
  required?: string[];
  items?: JsonNode;
  oneOf?: JsonNode[];
  anyOf?: JsonNode[];
}

function configurationPage(): string {
  return `# Configuration

Generated from \`src/config/schema.ts\`; do not edit. \`oncobridge config check\` reads your files against it, \`oncobridge config print\` shows
every value with its origin. Secrets come by \`\${env:NAME}\` or \`\${file:path}\` only. Unknown keys are refused.

## The server's file (\`config/embedded.yaml\`, \`config/production.yaml\`)

${table(z.toJSONSchema(serverSchema, { target: 'draft-7', io: 'input' }) as JsonNode)}

## A source's file (\`config/sources/*.yaml\`)

${table(z.toJSONSchema(sourceSchema, { target: 'draft-7', io: 'input' }) as JsonNode)}
`;
}

function table(root: JsonNode): string {
  const rows: string[] = ['| key | value | default | meaning |', '|---|---|---|---|'];
  const walk = (node: JsonNode, path: string): void => {
    for (const [key, child] of Object.entries(node.properties ?? {})) {
      const name = path === '' ? key : `${path}.${key}`;
      const required = node.required?.includes(key) === true;
      const fallback = child.default === undefined ? (required ? 'required' : '') : `\`${JSON.stringify(child.default)}\``;
      const options = child.oneOf ?? child.anyOf;
      if (options !== undefined) {
        rows.push(
          `| \`${name}\` | ${options.map((o) => `\`${String(o.properties?.['kind']?.const ?? '')}\``).join(', ')} | ${fallback} | ${child.description ?? ''} |`,
        );
        for (const option of options) {
          const { kind, ...rest } = option.properties ?? {};
          walk({ ...option, properties: rest }, `${name}(${String(kind?.const ?? '')})`);
        }
        continue;
      }
      rows.push(`| \`${name}\` | ${valueText(child)} | ${fallback} | ${cell(child.description ?? '')} |`);
      walk(child, name);
      if (child.items?.properties !== undefined) walk(child.items, `${name}[]`);
    }
  };
  walk(root, '');
  return rows.join('\n');
}

function valueText(node: JsonNode): string {
  if (node.const !== undefined) return `\`${JSON.stringify(node.const)}\``;
  if (node.enum !== undefined) return node.enum.map((value) => `\`${String(value)}\``).join(', ');
  if (node.type === 'array')
    return `list of ${node.items?.enum ? node.items.enum.map((v) => `\`${String(v)}\``).join(', ') : String(node.items?.type ?? 'objects')}`;
  return String(node.type ?? '');
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}

function errorsPage(): string {
  const rows = Object.entries(ERRORS).map(
    ([code, { status, issue, text }]) => `| \`${code}\` | ${status} | \`${issue}\` | ${cell(text)} |`,
  );
  return `# Errors

Generated from \`src/errors.ts\`; do not edit. Every error of the facade is an OperationOutcome with this code in \`details.coding\`
(system \`urn:oncobridge:error\`); the command line prints code and text. No text holds anything of a patient.

| code | HTTP | FHIR issue type | text |
|---|---|---|---|
${rows.join('\n')}
`;
}

function reasonsPage(): string {
  const rows = Object.entries(REASONS).map(
    ([code, { kind, text }]) => `| \`${code}\` | ${kind === 'either' ? 'skip or quarantine' : kind} | ${cell(text)} |`,
  );
  return `# Reasons

Generated from \`src/records/reasons.ts\`; do not edit. Every record that does not become part of a document has one of these, shown by
\`oncobridge quarantine list\`, \`oncobridge explain\` and \`oncobridge status\`. Either holds for that version of the record; the
next one is decided anew, and so is a held one when the patient whom it was waiting for comes.

| code | kind | text |
|---|---|---|
${rows.join('\n')}
`;
}

const CLASSES: Readonly<Record<ParameterClass, string>> = {
  clear: 'the value lies readable in the index',
  blind: 'an HMAC of system and value lies in the index; equality only',
  sealed: 'nothing of it lies in the index; matched after the resource was opened',
};

function searchParametersPage(): string {
  const rows = [...SEARCH_PARAMETERS].map(([type, parameters]) => {
    const named = (wanted: ParameterClass): string =>
      [...parameters.values()]
        .filter((parameter) => parameter.class === wanted)
        .map((parameter) => `\`${parameter.name}\``)
        .join(', ');
    return `| ${type} | ${named('clear')} | ${named('blind')} | ${named('sealed')} |`;
  });
  return `# Search parameters and where their values lie

Generated from \`src/records/search-parameters.ts\`; do not edit. \`_id\` and \`_lastUpdated\` hold for every type and are clear. Consent and
AuditEvent lie in no index: they are searched after they were opened.

${Object.entries(CLASSES)
  .map(([name, meaning]) => `- **${name}**: ${meaning}.`)
  .join('\n')}

| type | clear | blind | sealed |
|---|---|---|---|
${rows.join('\n')}
`;
}
