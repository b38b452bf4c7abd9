#!/usr/bin/env node
// A caller that nobody here wrote: headless Chromium, its microphone fed from a file.
//
//   node browser_caller.js --signal URL --speech FILE.wav --out PREFIX [--seconds 20] [--speak-after 0] [--chromium PATH]
//
// The page's own audio-only offer goes, unchanged, to the signalling desk at URL (see README.md beside this file). From
// the moment of connection the browser records what it hears for --seconds, or until the far end closes; it sends
// silence at first and the file, once, from --speak-after milliseconds after connection.
// Writes PREFIX.wav (48 kHz mono, what was heard), PREFIX.microphone.wav (what was said, on the same clock) and
// PREFIX.json (times in ms, packets, levels, getStats).
// Exit 0: connected, and packets went both ways. 1: not so; stderr says what is wrong. 2: wrong arguments.
'use strict';

const fs = require('node:fs');
const { parseArgs } = require('node:util');
const { chromium } = require('playwright-core');

const RATE = 48000;

function readArguments() {
  const { values } = parseArgs({
    options: {
      signal: { type: 'string' },
      speech: { type: 'string' },
      out: { type: 'string' },
      seconds: { type: 'string', default: '20' },
      'speak-after': { type: 'string', default: '0' },
      chromium: { type: 'string', default: '/usr/bin/chromium' },
    },
  });
  for (const name of ['signal', 'speech', 'out']) {
    if (!values[name]) throw new Error(`--${name} is missing`);
  }
  return {
    signal: values.signal.replace(/\/$/, ''),
    // Chromium feeds silence, without a word, from a path with '..' in it.
    speech: fs.realpathSync(values.speech),
    out: values.out,
    seconds: Number(values.seconds),
    speakAfter: Number(values['speak-after']),
    chromium: values.chromium,
  };
}

function flags(speech) {
  return [
    '--no-sandbox',
    '--use-fake-ui-for-media-stream',
    '--use-fake-device-for-media-stream',
    `--use-file-for-fake-audio-capture=${speech}%noloop`,
    '--autoplay-policy=no-user-gesture-required',
    // Without these the page hides its addresses behind mDNS names and skips loopback.
    '--disable-features=WebRtcHideLocalIpsWithMdns',
    '--allow-loopback-in-peer-connection',
    // No network here but our own: its services at home would only fail to answer.
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--disable-quic',
    '--no-first-run',
  ];
}

/** Runs in the page. Everything that it needs comes in `task`, everything that it found goes out as JSON. */
async function placeCall(task) {
  const begun = performance.now();
  const times = {};
  const mark = (name) => { times[name] ??= Math.round(performance.now() - begun); };
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  const audio = new AudioContext({ sampleRate: task.rate });
  await audio.resume();
  const silence = audio.createMediaStreamDestination();
  // A destination that nothing feeds sends no packets at all.
  const zero = new ConstantSourceNode(audio, { offset: 0 });
  zero.connect(silence);
  zero.start();

  const call = new RTCPeerConnection({ iceServers: [], bundlePolicy: 'max-bundle' });
  const states = [];
  call.addEventListener('connectionstatechange', () => { states.push(call.connectionState); mark(call.connectionState); });
  const sender = call.addTrack(silence.stream.getAudioTracks()[0], silence.stream);
  const incoming = new Promise((resolve) => call.addEventListener('track', (event) => resolve(event.streams[0] ?? new MediaStream([event.track]))));

  await call.setLocalDescription(await call.createOffer());
  await Promise.race([sleep(3000), new Promise((resolve) => {
    const look = () => { if (call.iceGatheringState === 'complete') resolve(); };
    call.addEventListener('icegatheringstatechange', look);
    look();
  })]);
  mark('offered');

  const posted = await fetch('/offer', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ type: 'offer', sdp: call.localDescription.sdp }),
  });
  if (posted.status !== 201) throw new Error(`the desk answered ${posted.status} to the offer: ${await posted.text()}`);
  const id = (await posted.json()).call;
  const answer = await (async () => {
    const until = performance.now() + task.answerWithin;
    while (performance.now() < until) {
      const reply = await fetch(`/answer?call=${encodeURIComponent(id)}`);
      if (reply.status === 200) return reply.json();
      if (reply.status !== 204) throw new Error(`the call was refused: ${reply.status} ${await reply.text()}`);
      await sleep(20);
    }
    throw new Error(`no answer within ${task.answerWithin} ms`);
  })();
  mark('answered');
  await call.setRemoteDescription(answer);

  // A remote track reaches WebAudio only once an element plays it; muted will do.
  const stream = await incoming;
  const element = new Audio();
  element.srcObject = stream;
  element.muted = true;
  element.play();
  const recorder = `registerProcessor('recorder', class extends AudioWorkletProcessor {
    process(inputs) { if (inputs[0].length) this.port.postMessage(inputs[0].map((part) => part.slice())); return true; }
  });`;
  await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([recorder], { type: 'text/javascript' })));
  const tap = new AudioWorkletNode(audio, 'recorder');
  const heard = [];
  const said = [];
  tap.port.onmessage = (event) => {
    const [incoming, outgoing] = event.data;
    heard.push(incoming);
    said.push(outgoing);
    if (incoming.some((sample) => Math.abs(sample) > 0.02)) mark('heardSound');
  };
  // Both directions in one recorder, so that they have one clock.
  const both = new ChannelMergerNode(audio, { numberOfInputs: 2 });
  audio.createMediaStreamSource(stream).connect(both, 0, 0);
  zero.connect(both, 0, 1);
  both.connect(tap);
  tap.connect(audio.destination);

  const connectUntil = performance.now() + task.connectWithin;
  while (call.connectionState !== 'connected') {
    if (call.connectionState === 'failed') throw new Error('ICE or DTLS failed');
    if (performance.now() > connectUntil) throw new Error(`not connected within ${task.connectWithin} ms: ${call.connectionState}`);
    await sleep(10);
  }

  const hangUpAt = performance.now() + task.seconds * 1000;
  const over = () => ['closed', 'failed'].includes(call.connectionState) || performance.now() >= hangUpAt;
  await sleep(task.speakAfter);
  const constraints = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const microphone = await navigator.mediaDevices.getUserMedia({ audio: constraints });
  audio.createMediaStreamSource(microphone).connect(both, 0, 1);
  await sender.replaceTrack(microphone.getAudioTracks()[0]);
  mark('speaking');
  while (!over()) await sleep(50);

  const stats = [];
  (await call.getStats()).forEach((entry) => stats.push(entry));
  const ended = call.connectionState;
  call.close();
  await fetch(`/bye?call=${encodeURIComponent(id)}`, { method: 'POST' }).catch(() => {});

  const base64 = (parts) => {
    const samples = new Int16Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      for (const sample of part) samples[at++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
    }
    let text = '';
    const bytes = new Uint8Array(samples.buffer);
    for (let from = 0; from < bytes.length; from += 32768) text += String.fromCharCode(...bytes.subarray(from, from + 32768));
    return btoa(text);
  };
  return { call: id, times, states, ended, stats, pcm: base64(heard), microphone: base64(said) };
}

function wav(pcm) {
  const head = Buffer.alloc(44);
  head.write('RIFF', 0);
  head.writeUInt32LE(36 + pcm.length, 4);
  head.write('WAVEfmt ', 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(RATE, 24);
  head.writeUInt32LE(RATE * 2, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write('data', 36);
  head.writeUInt32LE(pcm.length, 40);
  return Buffer.concat([head, pcm]);
}

function report(found, pcm) {
  const of = (type) => found.stats.find((entry) => entry.type === type && (entry.kind ?? 'audio') === 'audio') ?? {};
  let square = 0;
  for (let at = 0; at < pcm.length; at += 2) square += pcm.readInt16LE(at) ** 2;
  const [inbound, outbound, remote] = [of('inbound-rtp'), of('outbound-rtp'), of('remote-inbound-rtp')];
  return {
    call: found.call,
    times_ms: found.times,
    states: found.states,
    ended: found.ended,
    seconds_heard: pcm.length / 2 / RATE,
    rms_heard: pcm.length ? Math.sqrt(square / (pcm.length / 2)) / 32768 : 0,
    packets_received: inbound.packetsReceived ?? 0,
    packets_lost: inbound.packetsLost ?? 0,
    concealed_samples: inbound.concealedSamples ?? 0,
    packets_sent: outbound.packetsSent ?? 0,
    round_trip_s: remote.roundTripTime ?? null,
    codec: of('codec').mimeType ?? null,
    stats: found.stats,
  };
}

async function main() {
  let task;
  try {
    task = readArguments();
  } catch (error) {
    console.error(`browser_caller: ${error.message}`);
    process.exit(2);
  }
  const browser = await chromium.launch({ executablePath: task.chromium, headless: true, args: flags(task.speech) });
  try {
    const context = await browser.newContext({ permissions: ['microphone'] });
    const page = await context.newPage();
    page.on('pageerror', (error) => console.error(`page: ${error.message}`));
    await page.goto(`${task.signal}/`);
    const found = await page.evaluate(placeCall, {
      rate: RATE, seconds: task.seconds, speakAfter: task.speakAfter, answerWithin: 15000, connectWithin: 15000,
    });
    const pcm = Buffer.from(found.pcm, 'base64');
    const summary = report(found, pcm);
    fs.writeFileSync(`${task.out}.wav`, wav(pcm));
    fs.writeFileSync(`${task.out}.microphone.wav`, wav(Buffer.from(found.microphone, 'base64')));
    fs.writeFileSync(`${task.out}.json`, JSON.stringify(summary, null, 1));
    const { stats, ...short } = summary;
    console.log(JSON.stringify(short));
    if (summary.packets_received === 0 || summary.packets_sent === 0) {
      throw new Error(`packets did not go both ways: ${summary.packets_received} in, ${summary.packets_sent} out`);
    }
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(`browser_caller: ${error.message}`);
  process.exit(1);
});
