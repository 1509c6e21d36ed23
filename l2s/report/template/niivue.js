// NiiVue draws the slices where the browser has WebGL 2.

const NIFTI = { int16: 4, uint8: 2 };
const LABEL_INTENT = 1002;

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

// NiiVue sees plain axes: obliqueness stays in toMm, which alone makes millimetres for people.
function toNifti(niivue, name) {
  const { array, slope } = volumes[name];
  const [sz, sy, sx] = report.spacing;
  const affine = [-sx, 0, 0, (NX - 1) * sx / 2, 0, -sy, 0, (NY - 1) * sy / 2, 0, 0, sz, -(NZ - 1) * sz / 2, 0, 0, 0, 1];
  const bytes = niivue.NVImage.createNiftiArray([NX, NY, NZ], [sx, sy, sz], affine, NIFTI[report.volumes[name].dtype], array);
  const header = new DataView(bytes.buffer, bytes.byteOffset);
  header.setFloat32(112, slope, true);
  header.setFloat32(116, 0, true);
  if (name === 'labels') header.setInt16(68, LABEL_INTENT, true);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

async function startNiivue(stage) {
  const niivue = await loadNiivue();
  const canvas = document.createElement('canvas');
  canvas.setAttribute('aria-label', 'Axial, coronal and sagittal slices');
  canvas.tabIndex = -1;
  stage.append(canvas);
  const nv = new niivue.Niivue({
    logLevel: 'error', loadingText: '', dragAndDropEnabled: false, isRadiologicalConvention: true, sagittalNoseLeft: true, isColorbar: false,
    multiplanarForceRender: false, multiplanarShowRender: 0, multiplanarPadPixels: 4, multiplanarEqualSize: true, crosshairWidth: 1, crosshairWidthUnit: 'mm',
    crosshairGap: 12, crosshairColor: [0.04, 0.47, 0.78, 0.9], showAllOrientationMarkers: true, scrollRequiresFocus: true, backColor: [1, 1, 1, 1],
    fontColor: [0.45, 0.48, 0.5, 1], viewModeHotKey: '', clipPlaneHotKey: '', cycleClipPlaneHotKey: '', isAlphaClipDark: false,
  });
  await nv.attachToCanvas(canvas, false);
  nv.addColormap('l2s-inverse', { R: [255, 0], G: [255, 0], B: [255, 0], A: [255, 255], I: [0, 255] });
  nv.addColormap('l2s-hot', { R: HOT.map((c) => c[0]), G: HOT.map((c) => c[1]), B: HOT.map((c) => c[2]), A: [0, 130, 190, 205, 210], I: [0, 64, 128, 192, 255] });
  const order = volumes.ct ? ['ct', 'pet', 'labels'] : ['pet', 'labels'];
  for (const name of order) {
    nv.addVolume(new niivue.NVImage(toNifti(niivue, name), name + '.nii', 'gray', 1));
  }
  const layer = (name) => nv.volumes[order.indexOf(name)];
  const middle = () => report.shape.map((n, k) => (n * report.spacing[k]) / 2);
  const update = (what) => {
    if (what !== 'index') {
      if (layer('ct')) [layer('ct').cal_min, layer('ct').cal_max] = state.ctWindow;
      const pet = layer('pet');
      pet.cal_min = 0;
      pet.cal_max = state.suvMax;
      pet.colormap = state.mode === 'fused' ? 'l2s-hot' : 'l2s-inverse';
      pet.opacity = state.mode === 'ct' ? 0 : 1;
      const tones = report.lesions.slice(0, 254).map((_, k) => toneOf(k + 1));
      layer('labels').setColormapLabel({
        R: [0, ...tones.map((t) => t[0])], G: [0, ...tones.map((t) => t[1])], B: [0, ...tones.map((t) => t[2])], A: [0, ...tones.map(() => 255)],
        I: [0, ...tones.map((_, k) => k + 1)], labels: ['', ...tones.map((_, k) => 'lesion ' + (k + 1))],
      });
      layer('labels').opacity = state.labels && report.lesions.length ? 0.9 : 0;
      nv.opts.atlasOutline = 1;
      nv.opts.backColor = state.mode === 'pet' ? [1, 1, 1, 1] : [0, 0, 0, 1];
      nv.opts.sliceType = state.planes;
      nv.updateGLVolume();
    }
    const [z, y, x] = state.index;
    nv.scene.crosshairPos = [1 - (x + 0.5) / NX, 1 - (y + 0.5) / NY, (z + 0.5) / NZ];
    // millimetres from the middle, in NiiVue's own axes (right, front, head)
    const off = [z, y, x].map((v, k) => (v + 0.5) * report.spacing[k] - middle()[k]);
    const zoom = state.zoom;
    nv.scene.pan2Dxyzmm = zoom > 1 ? [zoom * off[2], zoom * off[1], -zoom * off[0], zoom] : [0, 0, 0, 1];
    nv.drawScene();
  };
  nv.onLocationChange = () => {
    const [r, a, s] = nv.scene.crosshairPos;
    moveTo([s * NZ - 0.5, (1 - a) * NY - 0.5, (1 - r) * NX - 0.5], 'drawer');
  };
  update('all');
  return { update };
}
