#!/usr/bin/env node
// The command line: see README.md.

import { parseArgs } from 'node:util';
import { downloadImage } from './download.js';
import { Failure } from './errors.js';
import { importFile } from './import.js';
import { Imsd } from './imsd.js';
import * as progress from './progress.js';
import { watchJob } from './watch.js';

const USAGE = `usage: node main.js ADDRESS import FILE --name NAME [--sha256 HEX]
       node main.js ADDRESS watch JOB
       node main.js ADDRESS download IMAGE FILE [--format FORMAT]

ADDRESS is unix:PATH, tls://HOST:PORT or HOST:PORT. README.md tells of IMSD_TOKEN, IMSD_CA_FILE and IMSD_PROJECT.
example: node main.js unix:/run/imsd/imsd.sock import debian.qcow2 --name debian-12`;

const OPTIONS = { name: { type: 'string' }, sha256: { type: 'string' }, format: { type: 'string' } };

const COMMANDS = { import: importAndWatch, watch, download };

async function importAndWatch(imsd, [file], options) {
  if (!file || !options.name) throw new Failure('USAGE', USAGE);
  const job = await importFile(imsd, file, options, progress.transfer('sent'));
  console.error(`job ${job.id}`);
  await watch(imsd, [job.id]);
}

async function watch(imsd, [id]) {
  if (!id) throw new Failure('USAGE', USAGE);
  const job = await watchJob(imsd, id, progress.job);
  for (const image of job.image_ids) console.log(`image ${image}`);
}

async function download(imsd, [image, file], options) {
  if (!image || !file) throw new Failure('USAGE', USAGE);
  const found = await downloadImage(imsd, image, file, options, progress.transfer('received'));
  console.log(`image ${found.id} is in ${file}`);
}

async function main() {
  const { values, positionals } = parsed();
  const [address, name, ...rest] = positionals;
  if (!Object.hasOwn(COMMANDS, name ?? '')) throw new Failure('USAGE', USAGE);
  const { IMSD_TOKEN: token, IMSD_CA_FILE: caFile, IMSD_PROJECT: project } = process.env;
  const imsd = new Imsd(address, { token, caFile, project });
  try {
    await COMMANDS[name](imsd, rest, values);
  } finally {
    progress.close();
    imsd.close();
  }
}

function parsed() {
  try {
    return parseArgs({ options: OPTIONS, allowPositionals: true });
  } catch {
    throw new Failure('USAGE', USAGE);
  }
}

function explain(error) {
  if (error.reason === 'USAGE') console.error(error.message);
  else if (error instanceof Failure) console.error(`${error.message} [${error.reason}]`);
  else if (error.syscall) console.error(`${error.message} [LOCAL_FILE]`);
  else throw error; // a defect: show where
  if (error.hint) console.error(`  ${error.hint}`);
  process.exitCode = error.reason === 'USAGE' ? 2 : 1;
}

// So that what is cleaned up on exit is cleaned up.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(130));

main().catch(explain);
