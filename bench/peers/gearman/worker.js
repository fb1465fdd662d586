// worker.js PORT INDEX: a worker as Pinion replaces it. It takes one job at a time from gearmand, asks one query for it and gathers
// documents into bulk requests of up to 500 or a second; a job is completed once its document lies in the buffer, indexed or not.
'use strict';
const fs = require('fs');
const net = require('net');
const path = require('path');

// gearmanode 0.9.2 leaves Nagle's algorithm on and writes an answer and the next question apart, so each job waits 40 ms for a delayed
// acknowledgement. NODELAY=0 measures it as it is; else it gets this mend.
if (process.env.NODELAY !== '0') {
  const connect = net.createConnection;
  net.createConnection = (...given) => connect(...given).setNoDelay(true);
}
// Its many debug lines cost time even where nobody reads them.
const winston = require('winston');
winston.configure({ silent: true });
for (const name of ['Client', 'JobServer', 'Job', 'LBStrategy', 'protocol', 'Worker']) winston.loggers.get(name).silent = true;

const gearmanode = require('gearmanode');
const { Client: Postgres } = require('pg');
const { Client: Elasticsearch } = require('@elastic/elasticsearch');

const [port, index] = process.argv.slice(2);
const DOCUMENTS_MAX = 500;
const WAIT_MS_MAX = 1000;
const text = fs.readFileSync(path.join(__dirname, '../row.sql'), 'utf8');
const postgres = new Postgres({ connectionString: process.env.REPLICA });
const elasticsearch = new Elasticsearch({ node: process.env.ELASTICSEARCH_URL });
let buffer = [];
let timer = null;
let flying = null;

function document(row) {
  return {
    id: +row.id, status: row.status, total: +row.total, currency: row.currency, placed_at: row.placed_at, updated_at: row.updated_at,
    customer: { id: +row.customer_id, name: row.customer_name, email: row.email, city: row.customer_city, country: row.country, created_at: row.created_at },
    merchant: { id: +row.merchant_id, name: row.merchant_name, category: row.category, city: row.merchant_city },
    items: row.items,
    delivery: { rider: row.rider, dispatched_at: row.dispatched_at, delivered_at: row.delivered_at, distance_m: row.distance_m },
  };
}

async function flush() {
  clearTimeout(timer);
  timer = null;
  const documents = buffer;
  buffer = [];
  if (!documents.length) return;
  if (flying) await flying; // one bulk request at a time
  const operations = documents.flatMap((document) => [{ index: { _id: String(document.id) } }, document]);
  flying = elasticsearch.bulk({ index, operations }).then((answer) => {
    if (answer.errors) throw new Error(JSON.stringify(answer.items.find((item) => item.index.error)));
  });
}

async function work(job) {
  const { id } = JSON.parse(job.payload.toString());
  const { rows } = await postgres.query({ name: 'order', text, values: [id] });
  if (rows.length) {
    buffer.push(document(rows[0]));
    if (buffer.length >= DOCUMENTS_MAX) await flush();
    else timer ??= setTimeout(() => flush().catch(fail), WAIT_MS_MAX);
  }
  job.workComplete('');
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

postgres.connect().then(() => {
  const worker = gearmanode.worker({ host: '127.0.0.1', port: +port });
  worker.addFunction('index_order', (job) => { work(job).catch(fail); });
}, fail);
