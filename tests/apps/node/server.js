// An ordinary Node server: node:http on $PORT ($HOST when set), knowing nothing of how it is started.
'use strict';
const http = require('node:http');
const { execFile } = require('node:child_process');

const name = process.env.APP_NAME || 'app';
const version = process.env.APP_VERSION || 'v0';
const inspect = 'env; for f in /proc/self/fd/*; do readlink $f; done; true';

const routes = {
  '/': (url, request, answer) => answer(200, `${name} ${version}\n`),
  '/health': (url, request, answer) => answer(200, 'ok\n'),
  '/peer': (url, request, answer) => answer(200, `${request.socket.remoteAddress}\n`),
  '/pid': (url, request, answer) => answer(200, `${process.pid}\n`),
  '/slow': (url, request, answer) =>
    setTimeout(() => answer(200, `${name} ${version}\n`), Number(url.searchParams.get('ms') || 0)),
  // What a program started from here inherits.
  '/child': (url, request, answer) =>
    execFile('sh', ['-c', inspect], (error, stdout) => answer(error ? 500 : 200, stdout)),
};

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  const answer = (status, body) => {
    response.writeHead(status, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(body), 'X-Pid': process.pid });
    response.end(body);
  };
  (routes[url.pathname] || (() => answer(404, 'not found\n')))(url, request, answer);
});

server.on('error', (error) => {
  console.error(`cannot listen: ${error.message}`);
  process.exit(1);
});
server.listen({ port: Number(process.env.PORT), host: process.env.HOST || undefined }, () => console.log('listening'));
process.on('SIGTERM', () => server.close(() => process.exit(0)));
