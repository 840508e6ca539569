// A deployed VaultPilot client, as far as the wire shows one: fetch, ws and fs, and nothing of devpipe.
//
//   node vaultpilot_client.mjs URL FOLDER
//
// Reads one JSON document a line: {"via": "http" | "first" | "websocket" | "old-websocket" | "folder", "type", "payload"},
// and prints {"via", "id", "success", "payload", "error"} when it is answered. "first" speaks HTTP as the first programs
// did: ISO times, sender, recipient, and the reply looked for in "response". What is pushed is printed as {"push", "on"}.
// {"via": "health"} asks the three health paths. It ends with its standard input.
import { createInterface } from 'node:readline';
import { open, readFile, writeFile, unlink, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { WebSocket } from 'ws';

const [url, folder] = process.argv.slice(2);
const PREFIX = '/api/v1/devpipe';
const TIMEOUT = 30000;
const print = (document) => console.log(JSON.stringify(document));
const newId = () => `msg-${Date.now()}-${Math.random().toString(36).slice(2, 11)}`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const waiting = new Map(); // id -> resolve

function wait(id) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer to ${id}`)), TIMEOUT);
    waiting.set(id, (reply) => {
      clearTimeout(timer);
      waiting.delete(id);
      resolve(reply);
    });
  });
}

const fields = (reply) => ({ success: reply.success !== false, payload: reply.payload, error: reply.error });

// --- HTTP and its stream ------------------------------------------------------------------------------

async function followStream() {
  const response = await fetch(`${url}${PREFIX}/stream`, { headers: { Accept: 'text/event-stream' } });
  if (!response.ok) throw new Error(`stream: ${response.status}`);
  print({ open: 'stream' });
  let rest = '';
  const decoder = new TextDecoder();
  for await (const chunk of response.body) {
    rest += decoder.decode(chunk, { stream: true });
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data:')) continue;
      const message = JSON.parse(line.slice(5));
      if (message.type === 'response' && message.id) waiting.get(message.id)?.({ ...fields(message), late: true });
      else print({ push: message, on: 'stream' });
    }
  }
}

async function post(message) {
  const response = await fetch(`${url}${PREFIX}/message`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(message),
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${await response.text()}`);
  return response.json();
}

async function overHttp(type, payload) {
  const message = { id: newId(), type, payload, timestamp: Date.now() };
  const later = wait(message.id);
  const reply = await post(message);
  if (reply.id === message.id) waiting.get(message.id)({ ...fields(reply), late: false });
  return { id: message.id, ...(await later) };
}

async function asTheFirst(type, payload) {
  const now = Date.now();
  const message = {
    id: `msg_${now}_1`,
    timestamp: new Date(now).toISOString(),
    expires_at: new Date(now + TIMEOUT).toISOString(),
    type,
    payload,
    sender: 'vaultpilot-plugin',
    recipient: 'evoagentx-backend',
    priority: 'normal',
  };
  const reply = await post(message);
  if (reply.response?.id !== message.id) throw new Error(`no nested reply: ${JSON.stringify(reply)}`);
  return { id: message.id, ...fields(reply.response) };
}

async function health() {
  const answers = {};
  for (const path of [`${PREFIX}/health`, '/status']) {
    answers[path] = (await fetch(`${url}${path}`, { signal: AbortSignal.timeout(5000) })).status;
  }
  return { payload: answers };
}

// --- WebSocket ----------------------------------------------------------------------------------------

const sockets = new Map(); // path -> promise of an open socket

function socketAt(path) {
  if (!sockets.has(path)) {
    sockets.set(path, new Promise((resolve, reject) => {
      const socket = new WebSocket(url.replace(/^http/, 'ws') + path);
      socket.on('error', reject);
      socket.on('open', () => {
        const payload = { sessionId: newId(), client: 'vaultpilot', version: '2.0.0', capabilities: ['chat'] };
        socket.send(JSON.stringify({ type: 'handshake', id: newId(), payload }));
        resolve(socket);
      });
      socket.on('message', (data) => {
        const message = JSON.parse(data.toString());
        if (message.type === 'pong') waiting.get('pong')?.({ success: true, payload: 'pong' });
        else if (message.type === 'response' && message.replyTo) waiting.get(message.replyTo)?.(fields(message));
        else if (message.type === 'health_pong' && message.id) waiting.get(message.id)?.({ success: true, payload: 'health_pong' });
        else print({ push: message, on: 'websocket' });
      });
    }));
  }
  return sockets.get(path);
}

async function overWebSocket(path, type, payload) {
  const socket = await socketAt(path);
  const id = type === 'ping' ? 'pong' : newId();
  const later = wait(id);
  const message = type === 'ping' ? { type } : type === 'health_ping' ? { type, id } : { id, type, payload };
  socket.send(JSON.stringify({ ...message, timestamp: Date.now() }));
  return { id, ...(await later) };
}

// --- folder -------------------------------------------------------------------------------------------

async function overFolder(type, payload) {
  await mkdir(folder, { recursive: true });
  const check = join(folder, `health_check_${Date.now()}.tmp`);
  await writeFile(check, 'health_check');
  if ((await readFile(check, 'utf8')) !== 'health_check') throw new Error('the folder does not keep what is written');
  await unlink(check);
  const message = { id: newId(), type, payload, timestamp: Date.now() };
  const text = JSON.stringify(message, null, 2);
  // in place, and with a pause in the middle: who reads it now finds half a document
  const file = await open(join(folder, `request_${message.id}.json`), 'w');
  await file.write(text.slice(0, text.length / 2));
  await pause(700);
  await file.write(text.slice(text.length / 2));
  await file.close();
  const path = join(folder, `response_${message.id}.json`);
  for (let left = TIMEOUT; left > 0; left -= 500) {
    const found = await readFile(path, 'utf8').catch(() => null);
    if (found !== null) {
      const reply = JSON.parse(found);
      for (const key of ['id', 'success', 'payload', 'error']) {
        if (!(key in reply)) throw new Error(`the response has no ${key}`);
      }
      return { id: reply.id, ...fields(reply) };
    }
    await pause(500);
  }
  throw new Error(`no response to ${message.id}`);
}

const ways = {
  http: overHttp,
  first: asTheFirst,
  health,
  websocket: (type, payload) => overWebSocket('/ws/agent', type, payload),
  'old-websocket': (type, payload) => overWebSocket('/devpipe/ws', type, payload),
  folder: overFolder,
  stream: () => followStream().catch((error) => print({ ended: String(error) })),
};

createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const { via, type, payload } = JSON.parse(line);
    try {
      const reply = await ways[via](type, payload);
      if (reply) print({ via, type, ...reply });
    } catch (error) {
      print({ via, type, broken: String(error) });
    }
  })
  .on('close', () => process.exit(0));
