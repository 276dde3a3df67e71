module livekit-pool/bench/wire

go 1.21
