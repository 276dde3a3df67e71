// Verifies webhooks with LiveKit's server SDK for Node; JSON on stdin and stdout.
//   [{"body", "authorization"}, ...] in, the event or {"error"} of each out.
// The key pair comes from LIVEKIT_API_KEY and LIVEKIT_API_SECRET: arguments are everybody's to see.
import { readFileSync } from "node:fs";
import { WebhookReceiver } from "livekit-server-sdk";

const { LIVEKIT_API_KEY, LIVEKIT_API_SECRET } = process.env;
const receiver = new WebhookReceiver(LIVEKIT_API_KEY, LIVEKIT_API_SECRET);

const answers = [];
for (const { body, authorization } of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    answers.push((await receiver.receive(body, authorization)).toJson());
  } catch (error) {
    answers.push({ error: error.message });
  }
}
console.log(JSON.stringify(answers));
