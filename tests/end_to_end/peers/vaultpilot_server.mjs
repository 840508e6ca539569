// A deployed VaultPilot server, as far as the wire shows one: http, ws and fs, and nothing of devpipe.
//
//   node vaultpilot_server.mjs FOLDER [no-stream]
//
// Prints one line of JSON with its port, serves until its standard input ends. Message types:
//   echo     the payload back                     fail     an error with code, message, suggestions
//   nested   HTTP: {"response": {id, payload}}    late     HTTP: another id first, the reply over the stream
//   bare     HTTP: {id, payload} and no more      silent   counted, and never answered
//   envelope the request as it was read           push     a push on sockets and streams, then the reply
//   pinged   WebSocket: health_ping to the client, replies with its pong
//   cut      WebSocket: the connection is cut     seen     how often each type has come, and the handshakes
//   hangup   every stream ends, then the reply
//   model-selection-request, health-check-request: one model, which is healthy
import { createServer } from 'node:http';
import { readdir, readFile, writeFile, appendFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { WebSocketServer } from 'ws';

const PREFIX = '/api/v1/devpipe';
const [folder, option] = process.argv.slice(2);
const seen = {};
const handshakes = [];
const sockets = new Set();
const streams = new Set();
let count = 0;
const SELECTION = {
  selected_model: {
    id: 'deployed-1', name: 'Deployed One', provider: 'acme', capabilities: [{ type: 'chat', score: 0.9, specializations: [] }],
    cost_per_token: 0.000002, max_tokens: 8192, response_time_avg_ms: 800, availability_score: 0.98, quality_score: 0.9,
  },
  fallback_models: [],
  estimated_cost: 0.002,
  estimated_time_ms: 800,
  selection_metadata: { selection_time_ms: 3, factors_considered: ['task'], confidence_score: 0.9 },
};
const serverId = () => `srv-${Date.now()}-${++count}`;

function tellAll(message) {
  const text = JSON.stringify(message);
  for (const socket of sockets) socket.send(text);
  for (const stream of streams) stream.write(`data: ${text}\n\n`);
}

// What a message is answered with: {payload}, {error}, or null for silence.
function answer(message) {
  seen[message.type] = (seen[message.type] ?? 0) + 1;
  switch (message.type) {
    case 'echo':
    case 'late':
    case 'nested':
    case 'bare':
      return { payload: message.payload };
    case 'envelope':
      return { payload: message };
    case 'seen':
      return { payload: { seen, handshakes } };
    case 'push':
      tellAll({ type: 'health_update', id: serverId(), payload: message.payload, timestamp: new Date().toISOString() });
      return { payload: 'pushed' };
    case 'fail':
      return { error: { code: 'BUDGET_EXCEEDED', message: 'too dear', details: { least: 3 }, suggestions: ['pay more'] } };
    case 'model-selection-request':
      return { payload: { ...SELECTION, reasoning: `chosen for ${message.payload.task_type}` } };
    case 'health-check-request':
      return { payload: { models: [{ model_id: 'deployed-1', status: 'healthy', last_check: new Date().toISOString() }] } };
    case 'hangup':
      for (const stream of streams) stream.end();
      return { payload: 'hung up' };
    case 'silent':
      return null;
    default:
      return { error: { code: 'INVALID_REQUEST', message: `no ${message.type} here` } };
  }
}

// --- HTTP ---------------------------------------------------------------------------------------------

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString('utf8'));
}

function sendJson(response, body) {
  response.writeHead(200, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(body));
}

const server = createServer(async (request, response) => {
  if (request.method === 'GET' && [`${PREFIX}/health`, '/status'].includes(request.url)) {
    sendJson(response, { status: 'healthy', service: 'devpipe', timestamp: Date.now() / 1000 });
  } else if (request.method === 'GET' && request.url === `${PREFIX}/stream` && option !== 'no-stream') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
    response.flushHeaders();
    streams.add(response);
    request.on('close', () => streams.delete(response));
  } else if (request.method === 'POST' && request.url === `${PREFIX}/message`) {
    const message = await bodyOf(request);
    const result = answer(message);
    if (result === null) return;
    if (message.type === 'late') {
      sendJson(response, { id: serverId(), status: 'queued' });
      const reply = { type: 'response', id: message.id, success: true, payload: result.payload, timestamp: Date.now() };
      for (const stream of streams) stream.write(`data: ${JSON.stringify(reply)}\n\n`);
    } else if (message.type === 'nested') {
      sendJson(response, { response: { id: message.id, payload: result.payload } });
    } else if (message.type === 'bare') {
      sendJson(response, { id: message.id, payload: result.payload });
    } else if (result.error) {
      sendJson(response, { id: message.id, type: 'response', success: false, error: result.error, timestamp: Date.now() });
    } else {
      const type = message.type.replace(/_request$/, '_response');
      sendJson(response, { id: message.id, type, success: true, payload: result.payload, timestamp: new Date().toISOString() });
    }
  } else {
    response.writeHead(404, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify({ detail: 'Not Found' }));
  }
});

// --- WebSocket ----------------------------------------------------------------------------------------

const websockets = new WebSocketServer({ server, path: '/ws/agent' });
websockets.on('connection', (socket) => {
  let greeted = false;
  let asked = null;
  const send = (message) => socket.send(JSON.stringify(message));
  sockets.add(socket);
  socket.on('close', () => sockets.delete(socket));
  socket.on('message', (data) => {
    const message = JSON.parse(data.toString());
    if (message.type === 'handshake') {
      greeted = Boolean(message.id && message.payload?.sessionId && message.payload.client);
      handshakes.push(message.payload);
    } else if (!greeted) {
      socket.close(4000, 'a handshake comes first');
    } else if (message.type === 'ping') {
      send({ type: 'pong', timestamp: Date.now() });
    } else if (message.type === 'health_ping') {
      send({ type: 'health_pong', id: message.id, timestamp: Date.now() });
    } else if (message.type === 'health_pong') {
      send({ type: 'response', id: serverId(), replyTo: asked, payload: message.id });
    } else if (message.type === 'pinged') {
      asked = message.id;
      send({ type: 'health_ping', id: 'msg-1751760000000-x8f3k2a9q', timestamp: Date.now() });
    } else if (message.type === 'cut') {
      answer(message);
      socket.terminate();
    } else {
      const result = answer(message);
      if (result === null) return;
      if (result.error) send({ type: 'response', id: serverId(), replyTo: message.id, success: false, ...result });
      else send({ type: 'response', id: serverId(), replyTo: message.id, ...result });
    }
  });
});

// --- folder -------------------------------------------------------------------------------------------

const taken = new Set();

async function look() {
  for (const name of await readdir(folder)) {
    const id = /^request_(.+)\.json$/.exec(name)?.[1];
    if (id === undefined || taken.has(id)) continue;
    let message;
    try {
      message = JSON.parse(await readFile(join(folder, name), 'utf8'));
    } catch {
      continue; // half written, or taken back: the next look will tell
    }
    taken.add(id);
    const result = answer(message);
    if (result === null) continue;
    const text = JSON.stringify({ id, success: !result.error, payload: result.payload ?? null, error: result.error ?? null }, null, 2);
    // in place and in two goes, as nobody should
    const path = join(folder, `response_${id}.json`);
    await writeFile(path, text.slice(0, text.length / 2));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await appendFile(path, text.slice(text.length / 2));
  }
}

if (folder) {
  await mkdir(folder, { recursive: true });
  const loop = async () => {
    await look().catch(() => undefined); // the folder is gone: so is the test
    setTimeout(loop, 100);
  };
  loop();
}

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
