// `node node.mjs`: the checks under Node, which before version 22 has no WebSocket of its own.

import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';
import { runChecks } from './checks.mjs';
import { startGateway } from './gateway.mjs';

const gateway = await startGateway();
try {
  process.exitCode = (await runChecks({ ...gateway, Centrifuge, options: { websocket: WebSocket } }, (line) => console.log(`node      ${line}`))) === 0 ? 0 : 1;
} finally {
  await gateway.stop();
}
process.exit();
