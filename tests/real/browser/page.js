// One participant in a page. The test drives it through window.participant; every time in its
// record is performance.now(), in milliseconds.
"use strict";

const { Room, RoomEvent, ConnectionErrorReason, ConnectionState, DisconnectReason } = LivekitClient;
const MESSAGE_EVERY = 50;
const LOOK_EVERY = 100;

class Participant {
  constructor() {
    this.events = [];
    this.data = {}; // by sender: [number, time] of each message
    this.audio = {}; // by sender: times at which packets had come
    this.sent = 0;
    this.sender = null;
    this.counted = new WeakMap(); // packets counted so far, by receiver: a new connection has new ones
    // Without DTX a microphone sends a packet each 20 ms also in silence, so that every gap is real.
    this.room = new Room({ publishDefaults: { dtx: false, red: false } });
    this.listen();
  }

  listen() {
    const names = {
      [RoomEvent.Connected]: "connected",
      [RoomEvent.Reconnecting]: "reconnecting",
      [RoomEvent.SignalReconnecting]: "signal_reconnecting",
      [RoomEvent.Reconnected]: "reconnected",
      [RoomEvent.Disconnected]: "disconnected",
      [RoomEvent.ParticipantConnected]: "participant_connected",
      [RoomEvent.ParticipantDisconnected]: "participant_disconnected",
      [RoomEvent.LocalTrackPublished]: "local_track_published",
      [RoomEvent.TrackSubscribed]: "track_subscribed",
      [RoomEvent.TrackUnsubscribed]: "track_unsubscribed",
    };
    for (const [event, name] of Object.entries(names)) {
      this.room.on(event, (...args) => {
        const whose = args.map((a) => a?.identity).find(Boolean);
        const why = name === "disconnected" ? DisconnectReason[args[0]] : "";
        this.record(name, whose ?? why ?? "");
      });
    }
    this.room.on(RoomEvent.DataReceived, (bytes) => {
      const message = JSON.parse(new TextDecoder().decode(bytes));
      (this.data[message.from] ??= []).push([message.n, performance.now()]);
    });
    setInterval(() => this.countPackets(), LOOK_EVERY);
  }

  record(name, detail) {
    this.events.push({ at: performance.now(), name, detail });
  }

  async join(url, token, { audio }) {
    await this.room.connect(url, token);
    if (audio) await this.room.localParticipant.setMicrophoneEnabled(true);
  }

  // What docs/http-api.md lets a page report of a connect() that fails, and the name it warns of.
  async failsToJoin(url, token) {
    try {
      await this.room.connect(url, token, { websocketTimeout: 2000 });
    } catch (error) {
      const code = error.status ?? ConnectionErrorReason[error.reason];
      return { error: String(error).slice(0, 4096), code, reasonName: error.reasonName };
    }
    throw new Error("it could connect");
  }

  async reports(pool, token, { server, revision, error, code }) {
    const answer = await fetch(`${pool}/pool/report`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify({ server, revision, error, code }),
    });
    return await answer.json();
  }

  startSending() {
    this.sender ??= setInterval(() => this.send(), MESSAGE_EVERY);
  }

  stopSending() {
    clearInterval(this.sender);
    this.sender = null;
  }

  send() {
    // A message sent while the SDK reconnects can make every later one fail, with no pool about:
    // ensurePublisherConnected keeps a rejected promise. Applications should wait as well.
    if (this.room.state !== ConnectionState.Connected) return;
    const message = { from: this.room.localParticipant.identity, n: ++this.sent };
    const bytes = new TextEncoder().encode(JSON.stringify(message));
    this.room.localParticipant
      .publishData(bytes, { reliable: true })
      .catch((error) => this.record("send_failed", `${message.n} ${error.message}`));
  }

  async countPackets() {
    for (const other of this.room.remoteParticipants.values()) {
      for (const { track } of other.audioTrackPublications.values()) {
        const receiver = track?.receiver;
        if (!receiver) continue;
        for (const report of (await receiver.getStats()).values()) {
          if (report.type !== "inbound-rtp") continue;
          if (report.packetsReceived > (this.counted.get(receiver) ?? 0)) {
            // The last packet's own time is exact; that of the first after a gap is up to one
            // look later than it was, so that a gap is never reported too short.
            const at = report.lastPacketReceivedTimestamp - performance.timeOrigin;
            (this.audio[other.identity] ??= []).push(at);
          }
          this.counted.set(receiver, report.packetsReceived);
        }
      }
    }
  }

  report() {
    return {
      now: performance.now(),
      state: this.room.state,
      seen: [...this.room.remoteParticipants.keys()],
      events: this.events,
      data: this.data,
      audio: this.audio,
      sent: this.sent,
    };
  }

  async leave() {
    this.stopSending();
    await this.room.disconnect();
  }
}

window.participant = new Participant();
