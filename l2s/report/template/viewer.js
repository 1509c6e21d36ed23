'use strict';
// What both ways of drawing share: volumes, coordinates, and the state that the controls change.
// Viewer indices run as the arrays do, [z, y, x]: z to the head, y to the back, x to the patient's left.

const report = JSON.parse(document.getElementById('report-data').textContent);
const [NZ, NY, NX] = report.shape;
const byId = (id) => document.getElementById(id);

async function unpack(id) {
  const holder = byId('blob-' + id);
  const text = holder.textContent.trim();
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  holder.textContent = '';
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Bytes lie in planes (all low bytes, then all high ones), which pack better.
async function readVolume(id) {
  const bytes = await unpack(id);
  const { dtype, slope } = report.volumes[id];
  const n = bytes.length / 2;
  const array = dtype === 'uint16' ? new Uint16Array(n) : new Int16Array(n);
  for (let k = 0; k < n; k++) array[k] = bytes[k] | (bytes[n + k] << 8);
  return { array, slope };
}

const offsetOf = ([z, y, x]) => (z * NY + y) * NX + x;
const inside = (index) => index.map((v, k) => Math.min(report.shape[k] - 1, Math.max(0, v)));
const nearest = (index) => inside(index.map(Math.round));

// LPS millimetres [x, y, z] of a viewer index.
function toMm(index) {
  const along = [index[2] * report.spacing[2], index[1] * report.spacing[1], index[0] * report.spacing[0]];
  return report.direction.map((row, k) => report.origin[k] + row[0] * along[0] + row[1] * along[1] + row[2] * along[2]);
}

const state = {
  index: report.lesions.length ? report.lesions[0].hottest.slice() : report.shape.map((n) => (n - 1) / 2),
  mode: 'pet', suvMax: 10, ctWindow: [-160, 240], labels: true, planes: 3, zoom: 1, picked: 0,
};
let volumes = null;   // {pet, ct?, labels, truth?}
let drawer = null;    // {update(what)}

const TONES = { lesion: [213, 94, 0], hit: [0, 158, 115], false: [213, 94, 0], missed: [0, 114, 178] };
const PICKED = [86, 180, 233];
const MOST_LABELS = 65535;  // of a uint16: the lesions beyond it share the last
const toneOf = (number) => (number === state.picked ? PICKED : TONES[report.lesions[number - 1].verdict]);

function moveTo(index, from) {
  state.index = inside(index);
  if (drawer && from !== 'drawer') drawer.update('index');
  readOut();
  crossOnPictures();
}

function readOut() {
  const where = byId('where');
  const at = nearest(state.index);
  where.dataset.index = at.join(' ');
  const parts = [];
  if (volumes) {
    const value = (v) => v.array[offsetOf(at)] * v.slope;
    parts.push(['SUV', value(volumes.pet).toFixed(2)]);
    if (volumes.ct) parts.push(['CT', value(volumes.ct).toFixed(0) + ' HU']);
    const label = volumes.labels.array[offsetOf(at)];
    if (label) parts.push([report.lesions[label - 1].verdict === 'missed' ? 'missed lesion' : 'lesion', label === MOST_LABELS ? `${label} or further` : String(label)]);
  }
  if (volumes && volumes.truth && volumes.truth.array[offsetOf(at)]) parts.push(['in the', 'truth']);
  const mm = toMm(state.index);
  const words = [[mm[0], 'L', 'R'], [mm[1], 'P', 'A'], [mm[2], 'H', 'F']].map(([v, plus, minus]) => `${Math.abs(v).toFixed(0)} ${v < 0 ? minus : plus}`);
  parts.push(['at', words.join(', ') + ' mm']);
  where.replaceChildren(...parts.map(([head, text]) => {
    const span = document.createElement('span');
    const bold = document.createElement('b');
    bold.textContent = text;
    span.append(head + ' ', bold);
    return span;
  }));
}

function crossOnPictures() {
  for (const figure of document.querySelectorAll('.plane[data-axis]')) {
    const axis = Number(figure.dataset.axis);
    const { step, rows } = report.views.find((v) => v.axis === axis);
    const along = axis === 1 ? 2 : 1;
    const box = figure.querySelector('svg').viewBox.baseVal;
    const x = (state.index[along] + 0.5) * report.factors[along] * step[1];
    const y = (rows - (state.index[0] + 0.5) * report.factors[0]) * step[0];
    figure.querySelector('.cross').setAttribute('d', `M0 ${y.toFixed(1)}H${(x - 9).toFixed(1)}M${(x + 9).toFixed(1)} ${y.toFixed(1)}H${box.width}M${x.toFixed(1)} 0V${(y - 9).toFixed(1)}M${x.toFixed(1)} ${(y + 9).toFixed(1)}V${box.height}`);
  }
}
