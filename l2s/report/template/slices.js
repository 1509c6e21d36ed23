// Three canvases, drawn slice by slice: what is left where there is no WebGL.

const PLANES = {
  0: { name: 'Axial', across: 2, down: 1, up: false, ends: ['R', 'L', 'A', 'P'] },
  1: { name: 'Coronal', across: 2, down: 0, up: true, ends: ['R', 'L', 'H', 'F'] },
  2: { name: 'Sagittal', across: 1, down: 0, up: true, ends: ['A', 'P', 'H', 'F'] },
};
const HOT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function hotColour(share) {
  const at = Math.min(3.999, Math.max(0, share) * 4);
  const k = Math.floor(at);
  return HOT[k].map((v, c) => v + (HOT[k + 1][c] - v) * (at - k));
}

function startSlices(stage) {
  stage.classList.add('flat');
  const canvases = {};
  for (const key of Object.keys(PLANES)) {
    const canvas = document.createElement('canvas');
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', PLANES[key].name + ' slice');
    canvases[key] = canvas;
    stage.append(canvas);
    const pick = (event) => moveTo(indexAt(canvas, Number(key), event));
    canvas.addEventListener('pointerdown', (event) => { canvas.setPointerCapture(event.pointerId); pick(event); });
    canvas.addEventListener('pointermove', (event) => { if (event.buttons & 1) pick(event); });
    canvas.addEventListener('wheel', (event) => {
      if (document.activeElement !== stage && !event.shiftKey) return;  // the page scrolls until the viewer is in use
      event.preventDefault();
      const through = 3 - PLANES[key].across - PLANES[key].down;
      moveTo(state.index.map((v, k) => (k === through ? v + Math.sign(event.deltaY) : v)));
    }, { passive: false });
  }
  const drawAll = () => {
    for (const key of Object.keys(PLANES)) {
      canvases[key].style.display = state.planes === 3 || state.planes === Number(key) ? '' : 'none';
      if (canvases[key].style.display === '') drawPlane(canvases[key], Number(key));
    }
  };
  new ResizeObserver(drawAll).observe(stage);
  drawAll();
  return { update: drawAll };
}

// How a plane lies on its canvas: millimetres times scale plus shift.
function frameOf(canvas, key) {
  const { across, down } = PLANES[key];
  const wide = report.shape[across] * report.spacing[across];
  const high = report.shape[down] * report.spacing[down];
  const scale = Math.min(canvas.width / wide, canvas.height / high) * state.zoom;
  const centre = (axis, size) => (state.zoom > 1 ? (state.index[axis] + 0.5) * report.spacing[axis] : size / 2);
  const cx = centre(across, wide);
  const cy = PLANES[key].up ? high - centre(down, high) : centre(down, high);
  return { scale, left: canvas.width / 2 - cx * scale, top: canvas.height / 2 - cy * scale, wide, high };
}

function indexAt(canvas, key, event) {
  const { across, down, up } = PLANES[key];
  const frame = frameOf(canvas, key);
  const ratio = canvas.width / canvas.clientWidth;
  const x = (event.offsetX * ratio - frame.left) / frame.scale;
  const y = (event.offsetY * ratio - frame.top) / frame.scale;
  const index = state.index.slice();
  index[across] = x / report.spacing[across] - 0.5;
  index[down] = (up ? frame.high - y : y) / report.spacing[down] - 0.5;
  return index;
}

function drawPlane(canvas, key) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  const { across, down, up, ends } = PLANES[key];
  const [w, h] = [report.shape[across], report.shape[down]];
  const at = nearest(state.index);
  const picture = new ImageData(w, h);
  const labels = new Uint8Array(w * h);
  const [low, high] = state.ctWindow;
  for (let row = 0; row < h; row++) {
    at[down] = up ? h - 1 - row : row;
    for (let column = 0; column < w; column++) {
      at[across] = column;
      const offset = offsetOf(at);
      const pet = volumes.pet.array[offset] * volumes.pet.slope / state.suvMax;
      let colour;
      if (state.mode === 'pet') {
        const grey = 255 * (1 - Math.min(1, Math.max(0, pet)));
        colour = [grey, grey, grey];
      } else {
        const grey = 255 * Math.min(1, Math.max(0, (volumes.ct.array[offset] * volumes.ct.slope - low) / (high - low)));
        colour = [grey, grey, grey];
        if (state.mode === 'fused') {
          const alpha = 0.8 * Math.min(1, Math.max(0, pet * 2));
          colour = hotColour(pet).map((v) => v * alpha + grey * (1 - alpha));
        }
      }
      const k = row * w + column;
      picture.data.set([colour[0], colour[1], colour[2], 255], 4 * k);
      labels[k] = volumes.labels.array[offset];
    }
  }
  const small = document.createElement('canvas');
  small.width = w;
  small.height = h;
  small.getContext('2d').putImageData(picture, 0, 0);
  const pen = canvas.getContext('2d');
  const frame = frameOf(canvas, key);
  const [sx, sy] = [report.spacing[across] * frame.scale, report.spacing[down] * frame.scale];
  pen.fillStyle = state.mode === 'pet' ? '#fff' : '#000';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(small, frame.left, frame.top, w * sx, h * sy);
  if (state.labels) drawEdges(pen, labels, w, h, frame, sx, sy, ratio);
  drawCross(pen, canvas, key, frame, sx, sy, ratio);
  pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  pen.fillStyle = state.mode === 'pet' ? '#303438' : '#d8dcdf';
  pen.textBaseline = 'middle';
  pen.textAlign = 'left';
  pen.fillText(ends[0], 6 * ratio, canvas.height / 2);
  pen.textAlign = 'right';
  pen.fillText(ends[1], canvas.width - 6 * ratio, canvas.height / 2);
  pen.textAlign = 'center';
  pen.fillText(ends[2], canvas.width / 2, 10 * ratio);
  pen.fillText(ends[3], canvas.width / 2, canvas.height - 9 * ratio);
}

function drawEdges(pen, labels, w, h, frame, sx, sy, ratio) {
  const lines = new Map();
  for (let row = 0; row < h; row++) {
    for (let column = 0; column < w; column++) {
      const own = labels[row * w + column];
      if (!own) continue;
      if (!lines.has(own)) lines.set(own, new Path2D());
      const path = lines.get(own);
      const [x, y] = [frame.left + column * sx, frame.top + row * sy];
      const differs = (dr, dc) => {
        const [r, c] = [row + dr, column + dc];
        return r < 0 || c < 0 || r >= h || c >= w || labels[r * w + c] !== own;
      };
      if (differs(-1, 0)) { path.moveTo(x, y); path.lineTo(x + sx, y); }
      if (differs(1, 0)) { path.moveTo(x, y + sy); path.lineTo(x + sx, y + sy); }
      if (differs(0, -1)) { path.moveTo(x, y); path.lineTo(x, y + sy); }
      if (differs(0, 1)) { path.moveTo(x + sx, y); path.lineTo(x + sx, y + sy); }
    }
  }
  pen.lineWidth = 1.6 * ratio;
  pen.lineCap = 'round';
  for (const [number, path] of lines) {
    pen.strokeStyle = `rgb(${toneOf(number).join(' ')})`;
    pen.stroke(path);
  }
}

function drawCross(pen, canvas, key, frame, sx, sy, ratio) {
  const { across, down, up } = PLANES[key];
  const x = frame.left + (state.index[across] + 0.5) * sx;
  const y = frame.top + (up ? report.shape[down] - state.index[down] - 0.5 : state.index[down] + 0.5) * sy;
  const gap = 9 * ratio;
  pen.strokeStyle = 'rgba(10, 120, 200, 0.9)';
  pen.lineWidth = ratio;
  pen.beginPath();
  for (const [a, b, c, d] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
    pen.moveTo(a, b);
    pen.lineTo(c, d);
  }
  pen.stroke();
}
