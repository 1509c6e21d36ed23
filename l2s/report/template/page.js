// Table, pictures, viewer and keys, tied together by one lesion that is picked.

const rowsOf = (table) => [...table.tBodies[0].rows];

function pick(name, focus = false) {
  for (const node of document.querySelectorAll('[data-lesion]')) node.classList.toggle('picked', node.dataset.lesion === name);
  const row = document.querySelector(`tr[data-lesion="${CSS.escape(name)}"]`);
  if (row) {
    for (const other of rowsOf(row.closest('table'))) {
      other.tabIndex = other === row ? 0 : -1;
      if (other === row) other.setAttribute('aria-current', 'true');
      else other.removeAttribute('aria-current');
    }
    const box = row.closest('.scroll');
    const head = box.querySelector('thead').offsetHeight;
    if (row.offsetTop - head < box.scrollTop) box.scrollTop = row.offsetTop - head;
    else if (row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = row.offsetTop + row.offsetHeight - box.clientHeight;
    if (focus) row.focus({ preventScroll: true });
  }
  nameOutlines(name);
  // the outline picked lies on top
  for (const mark of document.querySelectorAll('.plane g.lesion.picked')) mark.parentNode.insertBefore(mark, mark.parentNode.querySelector('.cross'));
  if (name.startsWith('b')) return;  // the viewer shows the follow-up
  state.picked = Number(name);
  numberOnSpin(state.picked);
  if (drawer) drawer.update('all');
  moveTo(report.lesions[state.picked - 1].hottest);
}

// Outlines without a number, which are too many or too close for one, get theirs while they are picked.
function nameOutlines(name) {
  for (const old of document.querySelectorAll('text.passing')) old.remove();
  for (const mark of document.querySelectorAll('.plane g.lesion.picked')) {
    if (mark.querySelector('text')) continue;
    const box = mark.querySelector('.line').getBBox();
    const text = document.createElementNS('http://www.w3.org/2000/svg', 'text');
    const wide = mark.ownerSVGElement.viewBox.baseVal.width;
    text.setAttribute('class', 'passing');
    text.setAttribute('x', box.x + box.width + 18 < wide - 16 ? box.x + box.width + 18 : box.x - 18);
    text.setAttribute('y', Math.max(26, box.y - 4));
    text.textContent = name.replace('b', '');
    mark.append(text);
  }
}

// How many rows there are, and that some lie below the table's edge; what is drawn small keeps letters that can be read.
function measurePage() {
  for (const count of document.querySelectorAll('.count')) {
    const box = byId(count.dataset.of).closest('.scroll');
    count.classList.toggle('more', box.scrollHeight > box.clientHeight + 1);
  }
  for (const svg of document.querySelectorAll('.plane svg')) {
    const shown = svg.getBoundingClientRect().width;
    if (shown) svg.style.setProperty('--small', Math.min(1.35, Math.max(1, svg.viewBox.baseVal.width / shown)).toFixed(3));
  }
  sizeStage(byId('stage'));
}

function step(by) {
  const table = byId('lesions');
  if (!table) return;
  const rows = rowsOf(table);
  const now = rows.findIndex((row) => row.classList.contains('picked'));
  const next = now < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, now + by));
  pick(rows[next].dataset.lesion);
}

function startTable(table) {
  for (const row of rowsOf(table)) row.addEventListener('click', () => pick(row.dataset.lesion));
  table.tBodies[0].addEventListener('keydown', (event) => {
    const row = event.target.closest('tr');
    const move = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
    const ends = { Home: 'firstElementChild', End: 'lastElementChild' }[event.key];
    const to = move ? row[move] : ends ? row.parentNode[ends] : ['Enter', ' '].includes(event.key) ? row : null;
    if (!to) return;
    event.preventDefault();
    pick(to.dataset.lesion, true);
  });
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener('click', () => {
    const text = head.classList.contains('col-number') || head.classList.contains('col-verdict');
    const before = head.getAttribute('aria-sort');
    // numbers: the largest first, that is what one looks for
    const down = before === 'none' ? !text : before === 'ascending';
    for (const other of heads) other.setAttribute('aria-sort', 'none');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const value = (row) => row.cells[column].dataset.sort;
    const sign = down ? -1 : 1;
    rowsOf(table).sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === '' || y === '') return (x === '') - (y === '');
      return sign * (Number.isNaN(Number(x)) ? x.localeCompare(y) : Number(x) - Number(y));
    }).forEach((row) => table.tBodies[0].append(row));
  }));
}

// A click beside the lesions goes to the hottest voxel behind that point, as a projection shows it.
function pickBehind(figure, event) {
  if (!volumes) return;
  const svg = figure.querySelector('svg');
  const box = svg.getBoundingClientRect();
  const axis = Number(figure.dataset.axis);
  const along = axis === 1 ? 2 : 1;
  const at = [0, 0, 0];
  at[along] = Math.floor(((event.clientX - box.left) / box.width) * report.views.find((v) => v.axis === axis).columns / report.factors[along]);
  at[0] = Math.floor((1 - (event.clientY - box.top) / box.height) * report.views.find((v) => v.axis === axis).rows / report.factors[0]);
  const place = nearest(at);
  let best = -Infinity;
  let where = 0;
  for (let k = 0; k < report.shape[axis]; k++) {
    place[axis] = k;
    const value = volumes.pet.array[offsetOf(place)];
    if (value > best) { best = value; where = k; }
  }
  place[axis] = where;
  moveTo(place);
}

function startPictures() {
  for (const figure of document.querySelectorAll('.plane')) {
    figure.querySelector('svg').addEventListener('click', (event) => {
      const mark = event.target.closest('g.lesion');
      if (mark) pick(mark.dataset.lesion);
      else if (figure.dataset.axis) pickBehind(figure, event);
    });
  }
  for (const tab of document.querySelectorAll('input[name="mip"]')) {
    tab.addEventListener('change', () => {
      byId('stills').hidden = tab.value !== 'still';
      byId('stills').style.display = tab.value === 'still' ? '' : 'none';
      byId('spin').hidden = tab.value !== 'spin';
    });
  }
}

function startControls() {
  const change = (id, event, then) => { const node = byId(id); if (node) node.addEventListener(event, () => { then(node); if (drawer) drawer.update('all'); }); };
  for (const radio of document.querySelectorAll('input[name="mode"]')) {
    radio.addEventListener('change', () => { state.mode = radio.value; if (drawer) drawer.update('all'); });
  }
  change('show-labels', 'change', (node) => { state.labels = node.checked; });
  change('suv', 'input', (node) => { state.suvMax = Number(node.value); byId('suv-out').textContent = node.value; });
  change('ct-window', 'change', (node) => { state.ctWindow = node.value.split(' ').map(Number); });
  change('planes', 'change', (node) => { state.planes = Number(node.value); sizeStage(byId('stage')); });
  change('zoom', 'input', (node) => { state.zoom = Number(node.value); });
  byId('print').addEventListener('click', () => window.print());
  const theme = byId('theme');
  const isDark = () => (document.documentElement.dataset.theme || (window.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  const say = () => { theme.textContent = isDark() ? 'Light' : 'Dark'; theme.setAttribute('aria-pressed', String(isDark())); };
  theme.addEventListener('click', () => { document.documentElement.dataset.theme = isDark() ? 'light' : 'dark'; say(); });
  say();
}

function startKeys() {
  const moves = { ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [1, 0, 0], ArrowDown: [-1, 0, 0], PageUp: [0, -1, 0], PageDown: [0, 1, 0] };
  byId('stage').addEventListener('keydown', (event) => {
    const by = moves[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    moveTo(state.index.map((v, k) => Math.round(v) + by[k]));
  }, true);
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === 'n' || event.key === 'N') step(1);
    if (event.key === 'p' || event.key === 'P') step(-1);
  });
}

async function startViewer() {
  const stage = byId('stage');
  const wait = byId('wait');
  try {
    const names = Object.keys(report.volumes);
    const read = await Promise.all(names.map(readVolume));
    volumes = Object.fromEntries(names.map((name, k) => [name, read[k]]));
  } catch (error) {
    wait.textContent = 'This browser cannot unpack the images; pictures and table are complete.';
    return;
  }
  try {
    if (!hasWebGl()) throw new Error('no WebGL 2');
    drawer = await startNiivue(stage);
    stage.dataset.engine = 'niivue';
  } catch (error) {
    for (const node of stage.querySelectorAll('.holder, canvas')) node.remove();
    stage.style.background = '';
    drawer = startSlices(stage);
    stage.dataset.engine = 'slices';
    byId('engine').textContent = '; drawn without WebGL';
    byId('engine').title = String(error);
  }
  wait.remove();
  moveTo(state.index);
}

for (const table of document.querySelectorAll('table.lesions')) startTable(table);
startPictures();
startControls();
startKeys();
const numberOnSpin = startSpin();
measurePage();
window.addEventListener('resize', measurePage);
startViewer();
