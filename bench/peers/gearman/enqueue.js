// enqueue.js PORT COUNT: puts COUNT background jobs into gearmand, function `index_order`, body {"id": …, "job_name": "orders"}.
'use strict';
const net = require('net');

const [port, count] = process.argv.slice(2).map(Number);
const SUBMIT_JOB_BG = 18;
const JOB_CREATED = 8;
const HEADER = 12; // magic, kind, length: four bytes each
const UNANSWERED_MAX = 2000;

const socket = net.connect(port, '127.0.0.1');
let sent = 0;
let created = 0;
let rest = Buffer.alloc(0);

function packet(id) {
  const body = Buffer.from(`index_order\0order-${id}\0{"id":${id},"job_name":"orders"}`);
  const head = Buffer.from('\0REQ\0\0\0\0\0\0\0\0', 'latin1');
  head.writeUInt32BE(SUBMIT_JOB_BG, 4);
  head.writeUInt32BE(body.length, 8);
  return Buffer.concat([head, body]);
}

function fill() {
  while (sent < count && sent - created < UNANSWERED_MAX) socket.write(packet(++sent));
}

socket.on('connect', fill);
socket.on('data', (data) => {
  rest = Buffer.concat([rest, data]);
  while (rest.length >= HEADER && rest.length >= HEADER + rest.readUInt32BE(8)) {
    if (rest.readUInt32BE(4) !== JOB_CREATED) throw new Error(`gearmand answered ${rest.subarray(0, 60)}`);
    rest = rest.subarray(HEADER + rest.readUInt32BE(8));
    created++;
  }
  if (created === count) socket.end(); else fill();
});
