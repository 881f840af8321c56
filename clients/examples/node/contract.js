// The wire contract: the .proto files of this repository, read as they are.

import { fileURLToPath } from 'node:url';
import protoLoader from '@grpc/proto-loader';

const here = fileURLToPath(new URL('.', import.meta.url));
const repository = fileURLToPath(new URL('../../../proto', import.meta.url));

export const definitions = protoLoader.loadSync(
  ['catalog', 'image', 'job', 'upload'].map((name) => `imsd/v1/${name}.proto`).concat('error_details.proto'),
  {
    includeDirs: [process.env.IMSD_PROTO ?? repository, here],
    keepCase: true, // names as in the .proto files
    longs: Number, // every size of imsd is below 2^53
    enums: String,
    defaults: true,
    oneofs: true, // a message says in `step` which of its steps is set
  },
);

/** The number of a value of an enum of imsd.v1, undefined for a name it does not have. */
export function enumValue(name, value) {
  return definitions[`imsd.v1.${name}`].type.value.find((each) => each.name === value)?.number;
}
