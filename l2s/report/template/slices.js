// Where the three planes lie on the stage, what is drawn over them, and the drawing without WebGL.

const PLANES = [
  { name: 'Axial', across: 2, down: 1, up: false, ends: ['R', 'L', 'A', 'P'] },
  { name: 'Coronal', across: 2, down: 0, up: true, ends: ['R', 'L', 'H', 'F'] },
  { name: 'Sagittal', across: 1, down: 0, up: true, ends: ['A', 'P', 'H', 'F'] },
];
const HOT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
const FUSED_SHARE = 0.55;  // of the PET over the CT
const NARROW_PX = 560;
const [HEIGHT_PX, NARROW_HEIGHT_PX, LEAST_HEIGHT_PX] = [430, 520, 150];  // of the stage
const TRUTH = { pet: 'rgb(0 114 178)', ct: 'rgb(86 180 233)', fused: 'rgb(86 180 233)' };
const GAP_PX = 4;

const extentMm = (axis) => report.shape[axis] * report.spacing[axis];

// [{key, left, top, width, height}] in pixels. Side by side, each as wide as its plane asks; a scan that is shorter than it is wide has
// its coronal and sagittal planes one above the other beside the axial one; where the page is narrow, they lie under it.
function tilesOf(width, height) {
  if (state.planes < 3) return [{ key: state.planes, left: 0, top: 0, width, height }];
  const row = (keys, top, high, most) => {
    const ask = keys.map((k) => Math.min(0.42 * width, (extentMm(PLANES[k].across) / extentMm(PLANES[k].down)) * most));
    const sum = ask.reduce((total, v) => total + v, 0);
    const room = width - GAP_PX * (keys.length - 1);
    let left = 0;
    return keys.map((key, k) => {
      const tile = { key, left, top, width: (room * ask[k]) / sum, height: high };
      left += tile.width + GAP_PX;
      return tile;
    });
  };
  if (width >= NARROW_PX && !isShort()) return row([0, 1, 2], 0, height, HEIGHT_PX);
  if (width >= NARROW_PX) {
    const [half, high] = [(width - GAP_PX) / 2, (height - GAP_PX) / 2];
    const right = half + GAP_PX;
    return [{ key: 0, left: 0, top: 0, width: half, height }, { key: 1, left: right, top: 0, width: half, height: high }, { key: 2, left: right, top: high + GAP_PX, width: half, height: high }];
  }
  if (isShort()) {
    const ask = PLANES.map((p) => extentMm(p.down) / extentMm(p.across));
    const share = (height - 2 * GAP_PX) / ask.reduce((total, v) => total + v, 0);
    const tops = [0, ask[0] * share + GAP_PX, (ask[0] + ask[1]) * share + 2 * GAP_PX];
    return ask.map((v, key) => ({ key, left: 0, top: tops[key], width, height: v * share }));
  }
  const first = Math.min(0.42 * height, (width * extentMm(1)) / extentMm(2));
  return [...row([0], 0, first, first), ...row([1, 2], first + GAP_PX, height - first - GAP_PX, 0.58 * NARROW_HEIGHT_PX)];
}

const isShort = () => extentMm(0) < 0.8 * Math.min(extentMm(1), extentMm(2));

// The height at which the planes fill the stage: no band of nothing above and below a short scan.
function stageHeight(width) {
  const most = width >= NARROW_PX || state.planes < 3 ? HEIGHT_PX : NARROW_HEIGHT_PX;
  const of = Object.fromEntries(tilesOf(width, most).map((tile) => [tile.key, fitted(tile).height]));
  if (state.planes < 3) return of[state.planes];
  if (width < NARROW_PX && isShort()) return Math.min(most, width * PLANES.reduce((sum, p) => sum + extentMm(p.down) / extentMm(p.across), 0) + 2 * GAP_PX);
  if (width < NARROW_PX) return Math.min(most, Math.max(of[0] + GAP_PX + Math.max(of[1], of[2]), of[0] / 0.42));
  return isShort() ? Math.min(most, Math.max(of[0], 2 * Math.max(of[1], of[2]) + GAP_PX)) : Math.max(...Object.values(of));
}

function sizeStage(stage) {
  if (stage.clientWidth) stage.style.height = `${Math.ceil(Math.max(LEAST_HEIGHT_PX, stageHeight(stage.clientWidth)))}px`;
}

// The part of a tile that its plane fills, at the plane's proportions.
function fitted({ key, left, top, width, height }) {
  const { across, down } = PLANES[key];
  const scale = Math.min(width / extentMm(across), height / extentMm(down));
  const [w, h] = [extentMm(across) * scale, extentMm(down) * scale];
  return { key, left: left + (width - w) / 2, top: top + (height - h) / 2, width: w, height: h };
}

// Pixels of a voxel, and where voxel edge 0 lies, inside a fitted tile; zoomed in, the crosshair is in its middle.
function frameOf(tile) {
  const { across, down, up } = PLANES[tile.key];
  const along = (axis, size, flip) => {
    const n = report.shape[axis];
    const step = (size / n) * state.zoom;
    const middle = state.zoom > 1 ? state.index[axis] + 0.5 : n / 2;
    return { step, first: size / 2 - (flip ? n - middle : middle) * step };
  };
  const x = along(across, tile.width, false);
  const y = along(down, tile.height, up);
  return { sx: x.step, sy: y.step, left: tile.left + x.first, top: tile.top + y.first };
}

function indexAt(tile, px, py) {
  const { across, down, up } = PLANES[tile.key];
  const frame = frameOf(tile);
  const index = state.index.slice();
  index[across] = (px - frame.left) / frame.sx - 0.5;
  const row = (py - frame.top) / frame.sy - 0.5;
  index[down] = up ? report.shape[down] - 1 - row : row;
  return index;
}

// Calls each(row, column, offset) for the voxels of a plane through the crosshair, head or front up.
function eachVoxel(key, each) {
  const { across, down, up } = PLANES[key];
  const strides = [NY * NX, NX, 1];
  const at = nearest(state.index);
  at[across] = 0;
  at[down] = 0;
  const start = offsetOf(at);
  const [w, h] = [report.shape[across], report.shape[down]];
  for (let row = 0; row < h; row++) {
    let offset = start + (up ? h - 1 - row : row) * strides[down];
    for (let column = 0; column < w; column++, offset += strides[across]) each(row, column, offset);
  }
}

// Over the images: outlines of the mask, crosshair, letters.
function drawOver(pen, tile, ratio) {
  const { across, down, up, ends } = PLANES[tile.key];
  const frame = frameOf(tile);
  pen.save();
  pen.beginPath();
  pen.rect(tile.left, tile.top, tile.width, tile.height);
  pen.clip();
  if (state.labels && report.lesions.length) {
    drawEdges(pen, tile.key, frame, volumes.labels, 1.6 * ratio, (number) => `rgb(${toneOf(number).join(' ')})`, 3 * ratio);
    pen.setLineDash([4 * ratio, 3 * ratio]);
    if (volumes.truth) drawEdges(pen, tile.key, frame, volumes.truth, 1.1 * ratio, () => TRUTH[state.mode]);
    pen.setLineDash([]);
  }
  const x = frame.left + (state.index[across] + 0.5) * frame.sx;
  const y = frame.top + (up ? report.shape[down] - state.index[down] - 0.5 : state.index[down] + 0.5) * frame.sy;
  const gap = 10 * ratio;
  pen.strokeStyle = state.mode === 'pet' ? 'rgba(10, 90, 150, 0.8)' : 'rgba(110, 185, 240, 0.85)';
  pen.lineWidth = ratio;
  pen.beginPath();
  for (const [a, b, c, d] of [[tile.left, y, x - gap, y], [x + gap, y, tile.left + tile.width, y], [x, tile.top, x, y - gap], [x, y + gap, x, tile.top + tile.height]]) {
    pen.moveTo(a, b);
    pen.lineTo(c, d);
  }
  pen.stroke();
  pen.restore();
  pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  pen.fillStyle = state.mode === 'pet' ? '#303438' : '#e4e8eb';
  pen.strokeStyle = state.mode === 'pet' ? '#fff' : '#000';
  pen.lineWidth = 3 * ratio;
  pen.lineJoin = 'round';
  pen.textAlign = 'center';
  pen.textBaseline = 'middle';
  const [cx, cy, inset] = [tile.left + tile.width / 2, tile.top + tile.height / 2, 9 * ratio];
  [[tile.left + inset, cy], [tile.left + tile.width - inset, cy], [cx, tile.top + inset], [cx, tile.top + tile.height - inset]].forEach(([a, b], k) => {
    pen.strokeText(ends[k], a, b);
    pen.fillText(ends[k], a, b);
  });
}

// The outline of each label of a volume in a plane; halo: width of a white line beneath it.
function drawEdges(pen, key, frame, volume, lineWidth, colourOf, halo = 0) {
  const { across, down } = PLANES[key];
  const [w, h] = [report.shape[across], report.shape[down]];
  const labels = new Uint16Array(w * h);
  eachVoxel(key, (row, column, offset) => { labels[row * w + column] = volume.array[offset]; });
  const lines = new Map();
  for (let row = 0; row < h; row++) {
    for (let column = 0; column < w; column++) {
      const own = labels[row * w + column];
      if (!own) continue;
      if (!lines.has(own)) lines.set(own, new Path2D());
      const path = lines.get(own);
      const [x, y] = [frame.left + column * frame.sx, frame.top + row * frame.sy];
      const differs = (r, c) => r < 0 || c < 0 || r >= h || c >= w || labels[r * w + c] !== own;
      if (differs(row - 1, column)) { path.moveTo(x, y); path.lineTo(x + frame.sx, y); }
      if (differs(row + 1, column)) { path.moveTo(x, y + frame.sy); path.lineTo(x + frame.sx, y + frame.sy); }
      if (differs(row, column - 1)) { path.moveTo(x, y); path.lineTo(x, y + frame.sy); }
      if (differs(row, column + 1)) { path.moveTo(x + frame.sx, y); path.lineTo(x + frame.sx, y + frame.sy); }
    }
  }
  pen.lineCap = 'round';
  for (const [number, path] of lines) {
    if (halo) {
      pen.strokeStyle = 'rgba(255, 255, 255, 0.75)';
      pen.lineWidth = halo;
      pen.stroke(path);
    }
    pen.strokeStyle = colourOf(number);
    pen.lineWidth = lineWidth;
    pen.stroke(path);
  }
}

function hotColour(share) {
  const at = Math.min(3.999, Math.max(0, share) * 4);
  const k = Math.floor(at);
  return HOT[k].map((v, c) => v + (HOT[k + 1][c] - v) * (at - k));
}

function drawSlice(pen, tile) {
  const { across, down } = PLANES[tile.key];
  const [w, h] = [report.shape[across], report.shape[down]];
  const picture = new ImageData(w, h);
  const [low, high] = state.ctWindow;
  const unit = (v) => Math.min(1, Math.max(0, v));
  eachVoxel(tile.key, (row, column, offset) => {
    const pet = unit((volumes.pet.array[offset] * volumes.pet.slope) / state.suvMax);
    let colour = Array(3).fill(255 * (1 - pet));
    if (state.mode !== 'pet') {
      const grey = 255 * unit((volumes.ct.array[offset] * volumes.ct.slope - low) / (high - low));
      colour = state.mode === 'fused' ? hotColour(pet).map((v) => v * FUSED_SHARE + grey * (1 - FUSED_SHARE)) : Array(3).fill(grey);
    }
    picture.data.set([...colour, 255], 4 * (row * w + column));
  });
  const small = document.createElement('canvas');
  small.width = w;
  small.height = h;
  small.getContext('2d').putImageData(picture, 0, 0);
  const frame = frameOf(tile);
  pen.save();
  pen.beginPath();
  pen.rect(tile.left, tile.top, tile.width, tile.height);
  pen.clip();
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(small, frame.left, frame.top, w * frame.sx, h * frame.sy);
  pen.restore();
}

// A canvas as large as the stage, sharp on fine screens; cleared.
function fitCanvas(canvas, stage) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(stage.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(stage.clientHeight * ratio));
  return { pen: canvas.getContext('2d'), ratio };
}

function startSlices(stage) {
  const canvas = document.createElement('canvas');
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', 'Axial, coronal and sagittal slices');
  canvas.className = 'flat';
  stage.append(canvas);
  let tiles = [];
  const update = () => {
    const { pen, ratio } = fitCanvas(canvas, stage);
    pen.fillStyle = state.mode === 'pet' ? '#fff' : '#000';
    pen.fillRect(0, 0, canvas.width, canvas.height);
    tiles = tilesOf(canvas.width / ratio, canvas.height / ratio).map((tile) => fitted(tile));
    pen.scale(ratio, ratio);
    for (const tile of tiles) {
      drawSlice(pen, tile);
      drawOver(pen, tile, 1);
    }
  };
  const tileAt = ({ offsetX, offsetY }) => tiles.find((t) => offsetX >= t.left && offsetX < t.left + t.width && offsetY >= t.top && offsetY < t.top + t.height);
  const go = (event) => {
    const tile = tileAt(event);
    if (tile) moveTo(indexAt(tile, event.offsetX, event.offsetY));
  };
  canvas.addEventListener('pointerdown', go);
  canvas.addEventListener('pointermove', (event) => { if (event.buttons & 1) go(event); });
  canvas.addEventListener('wheel', (event) => {
    const tile = tileAt(event);
    if (document.activeElement !== stage || !tile) return;  // the page scrolls until the viewer is in use
    event.preventDefault();
    const through = 3 - PLANES[tile.key].across - PLANES[tile.key].down;
    moveTo(state.index.map((v, k) => (k === through ? v + Math.sign(event.deltaY) : v)));
  }, { passive: false });
  new ResizeObserver(update).observe(stage);
  return { update };
}
