// The cost of opossum's decisions: a line of JSON per operation.
//
//     node main.js REPETITIONS MILLISECONDS
//
// It admits and records only around a call, which returns a promise. Each is awaited before the next.

import { createRequire } from 'node:module';
import CircuitBreaker from 'opossum';

const [repetitions, millis] = process.argv.slice(2).map(Number);
if (!(repetitions > 0 && millis > 0)) {
  console.error('usage: node main.js REPETITIONS MILLISECONDS');
  process.exit(2);
}

const { version } = createRequire(import.meta.url)('opossum/package.json');
const library = `opossum ${version}`;
const LONG_MS = 3600 * 1000;
const failed = new Error('the call has failed');
const good = () => Promise.resolve();
const bad = () => Promise.reject(failed);

// Half of twenty in ten seconds, with its fastest settings. No timeout: the others have none, and a timer per call would dominate.
const rules = {
  timeout: false,
  errorThresholdPercentage: 50,
  volumeThreshold: 20,
  rollingCountTimeout: 10_000,
  rollingCountBuckets: 10,
  resetTimeout: LONG_MS,
  // With percentiles, each failure sorts the latencies of the whole window.
  rollingPercentilesEnabled: false,
};

const breaker = (call, options = {}) => new CircuitBreaker(call, { ...rules, ...options });

const cases = [
  {
    operation: 'refuse',
    setUp: () => {
      const own = breaker(good);
      own.open();
      return own;
    },
    opened: true,
  },
  { operation: 'pass+success', setUp: () => breaker(good), opened: false },
  // More calls than all would have to fail.
  { operation: 'pass+failure', setUp: () => breaker(bad, { errorThresholdPercentage: 101 }), opened: false },
];

async function timed({ operation, setUp, opened }, count) {
  const own = setUp();
  const begin = process.hrtime.bigint();
  if (operation === 'pass+success') {
    for (let n = 0; n < count; n++) await own.fire();
  } else {
    for (let n = 0; n < count; n++) {
      try {
        await own.fire();
      } catch {
        // expected
      }
    }
  }
  const took = Number(process.hrtime.bigint() - begin);
  if (own.opened !== opened) throw new Error(`${operation}: the benchmark is not set up as it should be`);
  own.shutdown();
  return took;
}

// The number of repetitions that take about as long as `millis`, once the code is compiled.
async function countFor(one) {
  for (let count = 1000; ; count *= 2) {
    const took = await timed(one, count);
    if (took * 4 >= millis * 1e6) return Math.max(1, Math.round((count * millis * 1e6) / took));
  }
}

const counts = [];
for (const one of cases) counts.push(await countFor(one));
const nanos = cases.map(() => []);
for (let n = 0; n < repetitions; n++) {
  for (const [place, one] of cases.entries()) {
    nanos[place].push((await timed(one, counts[place])) / counts[place]);
  }
}
for (const [place, { operation }] of cases.entries()) {
  console.log(JSON.stringify({ library, operation, nanos: nanos[place] }));
}
