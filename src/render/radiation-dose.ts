/**
 * Layout of a radiation treatment summary: the three parts of the synoptic summary (ASTRO minimum data elements,
 * Christodouleas 2020): course, anatomic targets, delivered prescriptions. Physical dose in cGy, the source's digits;
 * nothing is added across volumes, phases or plans, and point doses stand apart.
 */
import type { DosePhase, DoseVolume, RadiationDoseDocument } from '../records/model.ts';
import { doseBars, grayOf } from './dose-bars.ts';
import { block, type Flow, heading } from './flow.ts';
import { textLines } from './lines.ts';
import type { Clock } from './moments.ts';
import { absentCell, type Fact, facts, remarks } from './parts.ts';
import { type Column, type TableCell, type TableRow, table } from './table.ts';
import { COLOUR, NOT_PROVIDED, TEXT } from './theme.ts';

export function radiationDoseBody(flow: Flow, document: RadiationDoseDocument, clock: Clock): void {
  courseSummary(flow, document, clock);
  targets(flow, document);
  prescriptions(flow, document, clock);
}

function courseSummary(flow: Flow, document: RadiationDoseDocument, clock: Clock): void {
  const { course, header } = document;
  heading(flow, 'Radiation course summary', 80);
  facts(
    flow,
    [
      { label: 'Diagnosis', value: course.diagnoses, span: 2 },
      { label: 'Stage', value: course.stage },
      { label: 'Intent', value: course.intent },
      { label: 'Course', value: course.name },
      { label: 'Sites', value: course.sites.join(', ') },
      { label: 'Modality', value: course.modalities.join(', ') },
      { label: 'Technique', value: course.techniques.join(', ') },
      { label: 'Sessions given / planned', value: ratio(course.sessionsGiven, course.sessionsPlanned) },
      { label: 'First treatment', value: course.start === undefined ? undefined : clock.moment(course.start) },
      {
        label: course.status === 'in-progress' ? 'Latest treatment so far' : 'Last treatment',
        value: course.end === undefined ? undefined : clock.moment(course.end),
      },
      { label: 'Status', value: course.status.replaceAll('-', ' ') },
      ...(course.status === 'stopped' || course.stopReason !== undefined
        ? [{ label: 'Reason for stopping', value: course.stopReason, span: 3 }]
        : []),
      { label: 'Treating physician', value: course.physician ?? header.author },
      { label: 'Facility', value: header.facility },
      { label: 'Re-irradiation', value: yesNo(course.reirradiation) },
      { label: 'Concurrent therapy', value: course.concurrentTherapy },
      { label: 'Tolerance', value: course.tolerance },
      { label: 'Follow-up', value: course.followUp },
    ],
    3,
  );
  remarks(flow, course.notes);
}

function targets(flow: Flow, document: RadiationDoseDocument): void {
  heading(flow, 'Anatomic target summary', 110, 'whole course, per volume');
  if (document.volumes.length === 0) remarks(flow, [`Dose per volume: ${NOT_PROVIDED}`]);
  else {
    doseBars(flow, document.volumes);
    flow.y += 8;
    volumeTable(flow, document.volumes, 'Volume');
  }
  if (document.points.length === 0) return;
  heading(flow, 'Point doses', 60, 'dose at a point, not in a volume');
  volumeTable(flow, document.points, 'Point');
}

function volumeTable(flow: Flow, volumes: readonly DoseVolume[], first: string): void {
  const fixed = [54, 44, 54, 54, 58, 50];
  const rest = flow.width - fixed.reduce((sum, width) => sum + width, 0);
  const columns: Column[] = [
    { title: first, width: rest * 0.62 },
    { title: 'Site', width: rest * 0.38 },
    { title: 'Delivered', subtitle: 'cGy', width: 54, align: 'decimal' },
    { title: 'Delivered', subtitle: 'Gy', width: 44, align: 'decimal' },
    { title: 'Planned', subtitle: 'cGy', width: 54, align: 'decimal' },
    { title: 'Prescribed', subtitle: 'cGy', width: 54, align: 'decimal' },
    { title: 'Fractions', subtitle: 'given / planned', width: 58, align: 'right' },
    { title: 'Uniform', subtitle: 'fractions', width: 50, align: 'right' },
  ];
  const dose = (text: string | undefined, width: number): TableCell =>
    text === undefined ? { lines: absentCell(flow, width - 8, 'right') } : { text };
  const rows = volumes.map((volume): TableRow => {
    const site = [volume.site, volume.laterality].filter((text) => text !== undefined).join(', ');
    return {
      cells: [
        {
          lines: [
            ...textLines(flow.sheet, volume.name, TEXT.strong, rest * 0.62 - 8),
            ...(volume.type === undefined ? [] : textLines(flow.sheet, volume.type, TEXT.tiny, rest * 0.62 - 8)),
          ],
        },
        site === '' ? { lines: absentCell(flow, rest * 0.38 - 8) } : { text: site, style: TEXT.small },
        volume.deliveredCGy === undefined ? dose(undefined, 54) : { text: volume.deliveredCGy, style: TEXT.strong },
        dose(grayOf(volume.deliveredCGy), 44),
        dose(volume.plannedCGy, 54),
        dose(volume.prescribedCGy, 54),
        ratioCell(flow, volume.fractionsDelivered, volume.fractionsPlanned, 50),
        volume.uniformFractionation === undefined
          ? { lines: absentCell(flow, 42, 'right') }
          : { text: yesNo(volume.uniformFractionation) ?? '' },
      ],
      notes: [...(volume.metric === undefined ? [] : [`Biological metric as reported: ${volume.metric}`]), ...volume.notes],
    };
  });
  table(flow, columns, [{ rows }]);
}

/** `12 / 28` right-aligned; where one half is missing, it says which. */
function ratioCell(flow: Flow, given: number | undefined, planned: number | undefined, width: number): TableCell {
  if (given === undefined && planned === undefined) return { lines: absentCell(flow, width, 'right') };
  if (given !== undefined && planned !== undefined) return { text: `${given} / ${planned}` };
  const known = given === undefined ? `${planned} planned` : `${given} given`;
  return {
    lines: [
      ...textLines(flow.sheet, known, TEXT.small, width, 'right'),
      ...textLines(flow.sheet, `${given === undefined ? 'given' : 'planned'} ${NOT_PROVIDED}`, TEXT.absentCell, width, 'right'),
    ],
  };
}

function prescriptions(flow: Flow, document: RadiationDoseDocument, clock: Clock): void {
  heading(flow, 'Delivered prescriptions', 120, 'per phase and plan; levels are never added');
  if (document.phases.length === 0) {
    remarks(flow, [`Phases and plans: ${NOT_PROVIDED}`]);
    return;
  }
  const ordered = inOrder(document.phases);
  overview(flow, ordered, clock);
  flow.y += 4;
  for (const { entry, depth } of ordered) phaseCard(flow, entry, depth);
}

/** Each phase followed by its plans, then what has no parent here; the source's order is kept otherwise. */
function inOrder(phases: readonly DosePhase[]): { entry: DosePhase; depth: 0 | 1 }[] {
  const names = new Set(phases.filter((entry) => entry.level === 'phase').map((entry) => entry.name));
  const ordered: { entry: DosePhase; depth: 0 | 1 }[] = [];
  const placed = new Set<DosePhase>();
  for (const phase of phases) {
    if (phase.level !== 'phase') continue;
    ordered.push({ entry: phase, depth: 0 });
    placed.add(phase);
    for (const plan of phases) {
      if (plan.level !== 'plan' || plan.parent !== phase.name || placed.has(plan)) continue;
      ordered.push({ entry: plan, depth: 1 });
      placed.add(plan);
    }
  }
  for (const entry of phases)
    if (!placed.has(entry)) ordered.push({ entry, depth: entry.parent !== undefined && names.has(entry.parent) ? 1 : 0 });
  return ordered;
}

function overview(flow: Flow, ordered: readonly { entry: DosePhase; depth: 0 | 1 }[], clock: Clock): void {
  const columns: Column[] = [
    { title: 'Phase or plan', width: flow.width - 306 },
    { title: 'Status', width: 70 },
    { title: 'First to last treatment', width: 112 },
    { title: 'Fractions', subtitle: 'given / planned', width: 62, align: 'right' },
    { title: 'Dose per fraction', subtitle: 'cGy', width: 62, align: 'decimal' },
  ];
  const rows = ordered.map(
    ({ entry, depth }): TableRow => ({
      cells: [
        { text: `${entry.level === 'phase' ? 'Phase' : 'Plan'} ${entry.name}`, style: entry.level === 'phase' ? TEXT.strong : TEXT.body },
        { text: entry.status.replaceAll('-', ' '), style: TEXT.small },
        period(entry, clock) === undefined ? { lines: absentCell(flow, 104) } : { text: period(entry, clock) ?? '', style: TEXT.small },
        ratioCell(flow, entry.fractionsDelivered, entry.fractionsPlanned, 54),
        entry.fractionDoseCGy === undefined ? { lines: absentCell(flow, 54, 'right') } : { text: entry.fractionDoseCGy },
      ],
      indent: depth * 12,
    }),
  );
  table(flow, columns, [{ rows }]);
}

function phaseCard(flow: Flow, entry: DosePhase, depth: 0 | 1): void {
  const { sheet } = flow;
  const x = depth * 12;
  flow.space(10);
  // A card stays whole where it can: its parts alone would not say which plan they are of.
  const details = entry.volumes.reduce(
    (sum, volume) => sum + 16 + 10.25 * (volume.notes.length + (volume.metric === undefined ? 0 : 1)),
    0,
  );
  const extra = [entry.revision, entry.isotope, entry.applicator].filter((value) => value !== undefined).length;
  flow.ensure(Math.min(flow.body * 0.6, 96 + Math.max(12, details) + 28 * extra + 16 * entry.notes.length));
  const title = `${entry.level === 'phase' ? 'Phase' : 'Plan'} ${entry.name}`;
  const fractions = ratio(entry.fractionsDelivered, entry.fractionsPlanned);
  const aside = [entry.status.replaceAll('-', ' '), `fractions ${fractions ?? NOT_PROVIDED}`].join(' · ');
  block(flow, [{ x: x + 8, lines: textLines(sheet, title, TEXT.subheading, flow.width - x - 210) }], {
    padding: 3,
    behind: (top, height) => {
      sheet.rectangle(flow.left + x, top, flow.width - x, height, COLOUR.wash);
      sheet.rectangle(flow.left + x, top, entry.level === 'phase' ? 3 : 1.5, height, COLOUR.accent);
      sheet.text(flow.left + flow.width - 8, top + 12.5, aside, TEXT.smallMuted, 'right');
    },
  });
  flow.y += 5;
  const list: Fact[] = [
    { label: 'Modality', value: entry.modality },
    { label: 'Technique', value: entry.techniques.join(', ') },
    { label: 'Energy', value: entry.energy },
    { label: 'Machine', value: entry.machine },
    { label: 'Image guidance', value: entry.imageGuidance },
    { label: 'Motion management', value: entry.motionManagement },
    ...(entry.isotope === undefined ? [] : [{ label: 'Isotope', value: entry.isotope }]),
    ...(entry.applicator === undefined ? [] : [{ label: 'Applicator', value: entry.applicator }]),
    ...(entry.revision === undefined ? [] : [{ label: 'Revision', value: entry.revision, span: 3 }]),
  ];
  facts(flow, list, 3, { x: x + 8 });
  for (const volume of entry.volumes) {
    const parts = [
      `delivered ${volume.deliveredCGy === undefined ? NOT_PROVIDED : `${volume.deliveredCGy} cGy`}`,
      `planned ${volume.plannedCGy === undefined ? NOT_PROVIDED : `${volume.plannedCGy} cGy`}`,
      `prescribed ${volume.prescribedCGy === undefined ? NOT_PROVIDED : `${volume.prescribedCGy} cGy`}`,
    ];
    const below = [...(volume.metric === undefined ? [] : [`biological metric as reported: ${volume.metric}`]), ...volume.notes];
    const nameWidth = 150;
    block(flow, [
      { x: x + 8, lines: textLines(sheet, volume.name, TEXT.strong, nameWidth - 8) },
      {
        x: x + 8 + nameWidth,
        lines: textLines(sheet, [parts.join('   ·   '), ...below].join('\n'), TEXT.small, flow.width - x - 8 - nameWidth),
      },
    ]);
    flow.y += 2;
  }
  if (entry.volumes.length === 0) {
    block(flow, [
      { x: x + 8, lines: textLines(sheet, `Dose per volume at this level: ${NOT_PROVIDED}`, TEXT.smallMuted, flow.width - x - 8) },
    ]);
  }
  remarks(flow, entry.notes, { x: x + 8, style: TEXT.small });
}

function period(entry: DosePhase, clock: Clock): string | undefined {
  if (entry.start === undefined && entry.end === undefined) return undefined;
  const [start, end] = [entry.start, entry.end].map((value) => (value === undefined ? NOT_PROVIDED : clock.parts(value).date));
  return start === end ? start : `${start} to ${end}`;
}

/** `12 / 28`; zero is a number, not a missing one. */
function ratio(given: number | undefined, planned: number | undefined): string | undefined {
  if (given === undefined && planned === undefined) return undefined;
  if (planned === undefined) return `${given} / ${NOT_PROVIDED}`;
  return `${given ?? NOT_PROVIDED} / ${planned}`;
}

function yesNo(value: boolean | undefined): string | undefined {
  return value === undefined ? undefined : value ? 'yes' : 'no';
}
