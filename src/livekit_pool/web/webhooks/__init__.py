"""
Webhooks: what the pool's LiveKit servers post here, and how it goes on.

`route` takes it in, `signer` tells whose it is, `event` what it says; then the ledger hears of it,
and `stream` passes it on.
"""
