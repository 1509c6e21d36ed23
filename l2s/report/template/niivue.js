// NiiVue draws the slices where the browser has WebGL 2; outlines, crosshair and letters lie on a canvas over it.

const NIFTI = { int16: 4 };

function hasWebGl() {
  try {
    return Boolean(document.createElement('canvas').getContext('webgl2'));
  } catch {
    return false;
  }
}

// The script's text comes out of the page itself; the page's policy knows its hash and would run no other.
async function loadNiivue() {
  const script = document.createElement('script');
  script.textContent = new TextDecoder().decode(await unpack('niivue'));
  document.head.append(script);
  if (!window.niivue) throw new Error('NiiVue did not start');
  return window.niivue;
}

// NiiVue sees plain axes around the volume's middle: obliqueness stays in toMm, which alone makes millimetres for people.
function toNifti(niivue, name) {
  const { array, slope } = volumes[name];
  const [sz, sy, sx] = report.spacing;
  const affine = [-sx, 0, 0, ((NX - 1) * sx) / 2, 0, -sy, 0, ((NY - 1) * sy) / 2, 0, 0, sz, (-(NZ - 1) * sz) / 2, 0, 0, 0, 1];
  const bytes = niivue.NVImage.createNiftiArray([NX, NY, NZ], [sx, sy, sz], affine, NIFTI[report.volumes[name].dtype], array);
  const header = new DataView(bytes.buffer, bytes.byteOffset);
  header.setFloat32(112, slope, true);
  header.setFloat32(116, 0, true);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

async function startNiivue(stage) {
  const niivue = await loadNiivue();
  const canvas = document.createElement('canvas');
  canvas.setAttribute('aria-label', 'Axial, coronal and sagittal slices');
  const holder = document.createElement('div');
  holder.className = 'holder';
  holder.append(canvas);
  const over = document.createElement('canvas');
  over.className = 'over';
  stage.append(holder, over);
  const nv = new niivue.Niivue({
    logLevel: 'error', loadingText: '', dragAndDropEnabled: false, dragMode: 0, isRadiologicalConvention: true, sagittalNoseLeft: true,
    isSliceMM: true, crosshairWidth: 0, isOrientationTextVisible: false, scrollRequiresFocus: true, backColor: [1, 1, 1, 1],
    viewModeHotKey: '', clipPlaneHotKey: '', cycleClipPlaneHotKey: '',
  });
  await nv.attachToCanvas(canvas, false);
  nv.addColormap('l2s-inverse', { R: [255, 0], G: [255, 0], B: [255, 0], A: [255, 255], I: [0, 255] });
  nv.addColormap('l2s-hot', { R: HOT.map((c) => c[0]), G: HOT.map((c) => c[1]), B: HOT.map((c) => c[2]), A: [255, 255, 255, 255, 255], I: [0, 64, 128, 192, 255] });
  const order = volumes.ct ? ['ct', 'pet'] : ['pet'];
  for (const name of order) nv.addVolume(await niivue.NVImage.new(toNifti(niivue, name), `${name}.nii`, 'gray', 1));
  const layer = (name) => nv.volumes[order.indexOf(name)];

  const overlay = () => {
    const { pen, ratio } = fitCanvas(over, stage);
    const scale = over.width / canvas.width;
    for (const { axCorSag: key, leftTopWidthHeight: [left, top, width, height] } of nv.screenSlices) {
      drawOver(pen, { key, left: left * scale, top: top * scale, width: width * scale, height: height * scale }, ratio);
    }
  };
  const draw = () => {
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    nv.setCustomLayout(tilesOf(width, height).map((t) => ({ sliceType: t.key, position: [t.left / width, t.top / height, t.width / width, t.height / height] })));
    overlay();
  };
  const update = (what) => {
    if (what !== 'index') {
      if (layer('ct')) [layer('ct').cal_min, layer('ct').cal_max] = state.ctWindow;
      const pet = layer('pet');
      pet.colormap = state.mode === 'fused' ? 'l2s-hot' : 'l2s-inverse';
      // after the colour map, whose setter brings the window of the data back
      [pet.cal_min, pet.cal_max] = [0, state.suvMax];
      pet.opacity = { pet: 1, ct: 0, fused: FUSED_SHARE }[state.mode];
      nv.opts.backColor = state.mode === 'pet' ? [1, 1, 1, 1] : [0, 0, 0, 1];
      stage.style.background = state.mode === 'pet' ? '#fff' : '#000';
      nv.updateGLVolume();
    }
    const off = state.index.map((v, k) => (v + 0.5 - report.shape[k] / 2) * report.spacing[k]);
    nv.scene.crosshairPos = [1 - (state.index[2] + 0.5) / NX, 1 - (state.index[1] + 0.5) / NY, (state.index[0] + 0.5) / NZ];
    // NiiVue's millimetres run to the right, front and head of the patient
    nv.scene.pan2Dxyzmm = state.zoom > 1 ? [state.zoom * off[2], state.zoom * off[1], -state.zoom * off[0], state.zoom] : [0, 0, 0, 1];
    draw();
  };
  nv.onLocationChange = () => {
    const [right, front, head] = nv.scene.crosshairPos;
    moveTo([head * NZ - 0.5, (1 - front) * NY - 0.5, (1 - right) * NX - 0.5], 'drawer');
    if (state.zoom > 1) update('index');
    else overlay();
  };
  new ResizeObserver(() => window.requestAnimationFrame(draw)).observe(stage);
  update('all');
  return { update };
}
