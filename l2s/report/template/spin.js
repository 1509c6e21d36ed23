// The rotating projection: half a turn of pictures, mirrored for the other half.

const BESIDE = [[15, -9], [15, 9], [-15, -9], [-15, 9], [0, -19], [0, 19], [28, 0], [-28, 0], [22, -22], [-22, 22]];

const MOST_NUMBERS = 60;  // more would cover the patient; the lesion that is picked has one however many there are

function startSpin() {
  const { frames, outlines, truths, width, height, bin_mm: binMm } = report.spin;
  const half = frames.length;
  const svgNs = 'http://www.w3.org/2000/svg';
  const make = (name, attributes, parent) => {
    const node = document.createElementNS(svgNs, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const table = byId('turntable');
  table.style.width = `${width}px`;
  const svg = document.createElementNS(svgNs, 'svg');
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', 'Rotating PET maximum projection');
  table.append(svg);
  const turned = make('g', {}, svg);
  const image = make('image', { width, height, preserveAspectRatio: 'none' }, turned);
  const outline = make('path', {}, turned);
  const truth = make('path', { class: 'truth' }, turned);
  const ends = make('g', { class: 'ends' }, svg);
  const leftEnd = make('text', { x: 7, y: height / 2 }, ends);
  const rightEnd = make('text', { x: width - 7, y: height / 2, 'text-anchor': 'end' }, ends);
  make('text', { x: width / 2, y: 14, 'text-anchor': 'middle' }, ends).textContent = 'H';
  make('text', { x: width / 2, y: height - 6, 'text-anchor': 'middle' }, ends).textContent = 'F';
  const scale = height / (NZ * report.spacing[0]);
  const addTag = (k) => {
    const tag = make('g', { class: 'tag', 'data-lesion': k + 1 }, svg);
    make('circle', { r: 11 }, tag);
    make('text', {}, tag).textContent = String(k + 1);
    tag.addEventListener('click', () => pick(String(k + 1)));
    return { tag, number: k + 1, middle: report.lesions[k].middle };
  };
  const tags = report.lesions.slice(0, MOST_NUMBERS).map((_, k) => addTag(k));
  const slider = byId('angle');
  slider.max = String(2 * half - 1);
  let step = 0;

  function show(next) {
    step = ((next % (2 * half)) + 2 * half) % (2 * half);
    const mirrored = step >= half;
    image.setAttribute('href', frames[step % half]);
    outline.setAttribute('d', outlines[step % half]);
    truth.setAttribute('d', truths ? truths[step % half] : '');
    turned.setAttribute('transform', mirrored ? `translate(${width} 0) scale(-1 1)` : '');
    const degrees = Math.round((step * 180) / half);
    const angle = (degrees * Math.PI) / 180;
    const placed = [];
    for (const { tag, middle } of tags) {
      const x = (middle[2] - (NX - 1) / 2) * report.spacing[2];
      const y = (middle[1] - (NY - 1) / 2) * report.spacing[1];
      const across = width / 2 + (x * Math.cos(angle) + y * Math.sin(angle)) * scale;
      const down = (NZ - 0.5 - middle[0]) * report.spacing[0] * scale;
      // the first of these places beside the lesion that no other number takes
      const free = BESIDE.find(([dx, dy]) => placed.every(([a, b]) => Math.abs(across + dx - a) > 17 || Math.abs(down + dy - b) > 13)) || BESIDE[0];
      placed.push([across + free[0], down + free[1]]);
      tag.setAttribute('transform', `translate(${(across + free[0]).toFixed(1)} ${(down + free[1]).toFixed(1)})`);
    }
    // the letters name what lies at the two edges
    const edge = (turn) => ['L', 'P', 'R', 'A'][Math.round(turn / 90) % 4];
    rightEnd.textContent = edge(degrees);
    leftEnd.textContent = edge(degrees + 180);
    slider.value = String(step);
    byId('angle-out').textContent = `${degrees}°`;
    slider.setAttribute('aria-valuetext', `${degrees} degrees, from the ${['front', 'left', 'back', 'right'][Math.round(degrees / 90) % 4]}`);
  }

  slider.addEventListener('input', () => show(Number(slider.value)));
  let from = null;
  table.addEventListener('pointerdown', (event) => { from = { x: event.clientX, step }; });
  window.addEventListener('pointermove', (event) => { if (from) show(from.step + Math.round((event.clientX - from.x) / 8)); });
  window.addEventListener('pointerup', () => { from = null; });
  const play = byId('play');
  let timer = 0;
  play.addEventListener('click', () => {
    const on = !timer;
    if (on) timer = window.setInterval(() => show(step + 1), 90);
    else { window.clearInterval(timer); timer = 0; }
    play.setAttribute('aria-pressed', String(on));
    play.textContent = on ? 'Stop' : 'Play';
  });
  show(0);
  return (number) => {
    while (tags.length > MOST_NUMBERS && tags.at(-1).number !== number) tags.pop().tag.remove();
    if (!tags.some((one) => one.number === number)) {
      tags.push(addTag(number - 1));
      tags.at(-1).tag.classList.add('picked');
    }
    show(step);
  };
}
