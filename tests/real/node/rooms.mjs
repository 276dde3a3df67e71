// Lists, creates and deletes rooms with LiveKit's server SDK for Node; JSON on stdout.
//   node rooms.mjs URL list | create ROOM | delete ROOM
// The key pair comes from LIVEKIT_API_KEY and LIVEKIT_API_SECRET: arguments are everybody's to see.
import { RoomServiceClient } from "livekit-server-sdk";

const [url, action, room] = process.argv.slice(2);
const { LIVEKIT_API_KEY, LIVEKIT_API_SECRET } = process.env;
const service = new RoomServiceClient(url, LIVEKIT_API_KEY, LIVEKIT_API_SECRET);

const actions = {
  list: async () => ({ rooms: (await service.listRooms()).map(({ name }) => name) }),
  create: async () => ({ room: (await service.createRoom({ name: room })).name }),
  delete: async () => ({ deleted: (await service.deleteRoom(room), room) }),
};

try {
  console.log(JSON.stringify(await actions[action]()));
} catch (error) {
  const { name, message, status, code } = error;
  console.log(JSON.stringify({ error: { name, message, status, code } }));
  process.exitCode = 1;
}
