// What can go wrong: one class, with the reason and the hint that the daemon gave.

import grpc from '@grpc/grpc-js';
import { definitions } from './contract.js';

const DOMAIN = 'imsd';
const PASSING = new Set(['UNAVAILABLE', 'STORE_UNAVAILABLE', 'DAEMON_UNREACHABLE']);

export class Failure extends Error {
  /**
   * `reason`: a name of imsd.v1.ErrorReason without its prefix; it never changes its meaning. `hint`: what to do.
   * Both may be empty.
   */
  constructor(reason, message, hint = '') {
    super(message);
    this.reason = reason;
    this.hint = hint;
  }

  /** Whether the same call may succeed a moment later. */
  get isPassing() {
    return PASSING.has(this.reason);
  }
}

/** The Failure for what a call of grpc-js ended with; anything else is returned as it is. */
export function failureOf(error) {
  if (error instanceof Failure || !(error?.metadata instanceof grpc.Metadata)) return error;
  const info = errorInfo(error.metadata);
  if (info) return new Failure(info.reason, error.details, info.metadata.hint);
  // The daemon says more than a code: this came from grpc-js, or from something between.
  if ([grpc.status.UNAVAILABLE, grpc.status.CANCELLED].includes(error.code)) {
    const hint = 'look whether the daemon runs and the address is right';
    return new Failure('DAEMON_UNREACHABLE', `the daemon cannot be reached: ${error.details}`, hint);
  }
  return new Failure(grpc.status[error.code], error.details);
}

/** The daemon's google.rpc.ErrorInfo: one of the details of the google.rpc.Status in the trailing metadata. */
function errorInfo(metadata) {
  for (const bytes of metadata.get('grpc-status-details-bin')) {
    for (const detail of definitions['google.rpc.Status'].deserialize(bytes).details) {
      if (!detail.type_url.endsWith('/google.rpc.ErrorInfo')) continue;
      const info = definitions['google.rpc.ErrorInfo'].deserialize(detail.value);
      if (info.domain === DOMAIN) return info;
    }
  }
  return undefined;
}
