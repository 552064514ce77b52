// A second compiler's opinion on every shader variant: Tint, the compiler of Chrome. It refuses what naga accepts,
// first of all barriers in control flow that is not uniform. Needs neither a GPU nor Vulkan.
//
//   cd tools/tint && npm install && node check.mjs ../../target/release/build/aprgpu-*/out/wgsl
import { create, globals } from 'webgpu';
import fs from 'fs';
import path from 'path';

Object.assign(globalThis, globals);
const folders = process.argv.slice(2);
if (folders.length === 0) {
  console.error('usage: node check.mjs FOLDER_OF_WGSL...   (the build script writes them to out/wgsl)');
  process.exit(2);
}
// The newest of several build folders is the one of the last build.
const folder = folders.sort((a, b) => fs.statSync(b).mtimeMs - fs.statSync(a).mtimeMs)[0];
const gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
const adapter = await gpu.requestAdapter({});
if (!adapter) {
  console.error('Dawn has no null adapter');
  process.exit(2);
}
const device = await adapter.requestDevice({ requiredFeatures: ['subgroups'] });

async function errors(code) {
  device.pushErrorScope('validation');
  const info = await device.createShaderModule({ code }).getCompilationInfo();
  await device.popErrorScope();
  return info.messages.filter((message) => message.type === 'error');
}

// Proof that the check can fail.
const divergent = `var<workgroup> s: array<u32, 64>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) t: u32) {
  if (t < 32u) { s[t] = t; workgroupBarrier(); }
}`;
if ((await errors(divergent)).length === 0) {
  console.error('Tint accepted a barrier in divergent control flow: this check is worth nothing');
  process.exit(2);
}

let failed = 0;
const files = fs.readdirSync(folder).filter((file) => file.endsWith('.wgsl')).sort();
for (const file of files) {
  // naga knows subgroups without being told and refuses the directive that Tint wants.
  const enable = file.includes('SUBGROUPS') ? 'enable subgroups; ' : '';
  for (const message of await errors(enable + fs.readFileSync(path.join(folder, file), 'utf8'))) {
    console.error(`${file}:${message.lineNum}:${message.linePos}: ${message.message}`);
    failed += 1;
  }
}
console.log(`${files.length} shaders in ${folder}: ${failed === 0 ? 'Tint accepts all' : `${failed} errors`}`);
process.exit(failed === 0 && files.length > 0 ? 0 : 1);
