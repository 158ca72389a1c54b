// Runs the program as a module of WebAssembly that imports nothing: `node run.mjs PROGRAM`.
import { readFile } from "node:fs/promises";

const { instance } = await WebAssembly.instantiate(await readFile(process.argv[2]), {});
const before = instance.exports.memory.buffer.byteLength;
const well = instance.exports.run_all() === 1;
const after = instance.exports.memory.buffer.byteLength;
console.log(`${well ? "ok" : "wrong"}: memory grew from ${before >> 10} KiB to ${after >> 10} KiB`);
process.exit(well ? 0 : 1);
