"""
The connection to Firestore: few calls, each bounded in time, none repeated unasked.

It speaks through the generated client, https://cloud.google.com/python/docs/reference/firestore,
because the handwritten one repeats a commit whose answer was lost, which then looks lost against
itself, waits for minutes where a server is away, and cannot listen on an event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast

import google.auth
import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.services.firestore.transports import (
    FirestoreGrpcAsyncIOTransport,
)
from google.protobuf.wrappers_pb2 import Int32Value
from grpc import StatusCode

from ..exceptions import ConfigurationError, StoreOutcomeUnknown, StoreUnavailable
from .firestore_errors import Conflict, after_read, after_write
from .firestore_url import Address
from .firestore_values import seconds, value

__all__ = ["Budget", "Client", "as_written", "open_client"]

_T = TypeVar("_T")

_SCOPE: Final = "https://www.googleapis.com/auth/datastore"
_OPTIONS: Final = [
    # How soon it connects again: by default it would wait for up to two minutes. The shortest
    # back-off also is what one attempt is given, TLS included.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # As Google's own client: a connection that died silently is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
# Seconds: for all of a call of the store, for one call to Firestore, for the connection before a
# write, and for finding credentials, for which a machine of Google's asks its metadata server.
_ALL: Final = 4.5
_ONE: Final = 2.5
_CONNECT: Final = 1.2
_CREDENTIALS: Final = 10.0
# Seconds until what was lost with a connection is asked for again.
_AFTER_LOSS: Final = 0.05


class Budget:
    """The time that one call of the store has left."""

    def __init__(self, seconds: float = _ALL) -> None:
        self._end = time.monotonic() + seconds

    def left(self, most: float = _ONE) -> float:
        """Seconds for the next step, at most ``most``; never none at all."""
        return max(0.05, min(most, self._end - time.monotonic()))

    @property
    def spent(self) -> bool:
        """Whether there is no time for another try."""
        return time.monotonic() >= self._end - 0.5


async def open_client(
    address: Address, clock: Callable[[], float] | None = None, emulator: str | None = None
) -> Client:
    """
    Make a client; nothing is sent yet. ``clock`` takes the place of Firestore's time.

    Raises:
        ConfigurationError: there are no credentials.
    """
    # Google's variables are read where its own library reads them.
    if emulator := emulator or os.environ.get("FIRESTORE_EMULATOR_HOST"):
        channel = grpc.aio.insecure_channel(emulator, options=_OPTIONS)
        return Client(address, channel, [("authorization", "Bearer owner")], clock)
    try:
        async with asyncio.timeout(_CREDENTIALS):
            credentials, _ = await asyncio.to_thread(google.auth.default, scopes=[_SCOPE])
    except (GoogleAuthError, TimeoutError, OSError, ValueError):
        raise ConfigurationError(
            "LIVEKIT_POOL_STORE: Firestore needs Google's application default credentials: set"
            " GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account."
        ) from None
    channel = FirestoreGrpcAsyncIOTransport.create_channel(
        credentials=credentials, options=_OPTIONS
    )
    return Client(address, channel, [], clock)


class Client:
    """
    Calls to one database; what they answer are raw protocol buffers.

    Reads raise `StoreUnavailable`, or `Refused` of it; `commit` says what it raises.
    """

    def __init__(
        self,
        address: Address,
        channel: grpc.aio.Channel,
        metadata: Sequence[tuple[str, str]],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._address = address
        self._channel = channel
        self._api = FirestoreAsyncClient(transport=FirestoreGrpcAsyncIOTransport(channel=channel))
        self._metadata = [("google-cloud-resource-prefix", address.resource), *metadata]
        self._clock = clock
        # Firestore's time minus the monotonic clock's, once it has told.
        self._offset: float | None = None
        self._closed = False

    async def close(self) -> None:
        """End all calls and the connection."""
        self._closed = True
        await self._channel.close()

    def now(self) -> float:
        """Firestore's time, seconds since the epoch, as it told it last; or the clock's."""
        if self._clock is not None:
            return self._clock()
        return time.time() if self._offset is None else self._offset + time.monotonic()

    async def read(self, names: Sequence[str], budget: Budget) -> dict[str, Any]:
        """Read documents: those that are there, by name."""
        request = types.BatchGetDocumentsRequest(
            database=self._address.resource, documents=list(names)
        )
        answers = await self._answers(self._api.batch_get_documents, request, budget)
        found = [answer.found for answer in answers if answer.HasField("found")]
        return {document.name: document for document in found}

    async def query(
        self,
        collection: str,
        budget: Budget,
        *,
        where: tuple[str, str, object] | None = None,
        descending: str | None = None,
        limit: int | None = None,
    ) -> list[Any]:
        """
        Read the documents of a collection below the pool's document.

        Args:
            where: field, Firestore's name of an operator, and what to compare it with.
            descending: a field by which they are in descending order.
        """
        structured = types.StructuredQuery
        query = structured(from_=[structured.CollectionSelector(collection_id=collection)])
        if where is not None:
            query.where = _filter(*where)
        if descending is not None:
            order = structured.Order(
                field=structured.FieldReference(field_path=descending),
                direction=structured.Direction.DESCENDING,
            )
            query.order_by = [order]
        if limit is not None:
            query.limit = Int32Value(value=limit)
        request = types.RunQueryRequest(parent=self._address.document, structured_query=query)
        answers = await self._answers(self._api.run_query, request, budget)
        return [answer.document for answer in answers if answer.HasField("document")]

    async def commit(self, writes: Sequence[types.Write], budget: Budget) -> Any:
        """
        Do all ``writes``, or none.

        Returns:
            a ``CommitResponse``: when it was done, and the update time of each document.

        Raises:
            Conflict: none was done; a precondition does not hold.
            Busy, Refused, StoreUnavailable: none was done.
            StoreOutcomeUnknown: they may be done, now or soon.
        """
        await self._connect(budget)
        request = types.CommitRequest(database=self._address.resource, writes=list(writes))
        try:
            response = await self._bounded(
                self._api.commit(request, retry=None, timeout=None, metadata=self._metadata),
                # Time is left to find out what came of it.
                min(_ONE, max(0.3, budget.left(_ALL) - 1.0)),
            )
        except GoogleAPICallError as error:
            raise after_write(error, self._address) from error
        except TimeoutError:
            raise StoreOutcomeUnknown("Firestore did not answer a write in time.") from None
        done = types.CommitResponse.pb(response)
        self._heard(done.commit_time)
        return done

    async def write(self, writes: Sequence[types.Write], budget: Budget) -> None:
        """
        Do all ``writes``, which have no preconditions and are the same when done twice.

        Raises as `commit` does, but no `Conflict`: there is nothing to be in conflict with, and
        those words of Firestore's then mean that there is no such database.
        """
        try:
            await self._commit_freely(writes, budget)
        except StoreOutcomeUnknown as unknown:
            await asyncio.sleep(_AFTER_LOSS)
            try:
                await self._commit_freely(writes, budget)
            except StoreUnavailable:
                raise unknown from None  # the first may be done

    async def _commit_freely(self, writes: Sequence[types.Write], budget: Budget) -> None:
        try:
            await self.commit(writes, budget)
        except Conflict as conflict:
            error = cast(GoogleAPICallError, conflict.__cause__)
            raise after_read(error, self._address) from None

    async def listen(self, document: str) -> AsyncGenerator[Any, None]:
        """
        Yield what Firestore says about one document, from its present state on.

        Raises:
            StoreUnavailable: the stream ended.
        """
        target = types.Target(
            documents=types.Target.DocumentsTarget(documents=[document]), target_id=1
        )
        request = types.ListenRequest(database=self._address.resource, add_target=target)

        over = asyncio.Event()

        async def requests() -> AsyncIterator[types.ListenRequest]:
            yield request
            # The stream ends when there is nothing more to come.
            await over.wait()

        try:
            stream: Any = await self._unless_closed(
                self._api.listen(requests(), retry=None, timeout=None, metadata=self._metadata)
            )
            try:
                async for response in stream:
                    yield types.ListenResponse.pb(response)
            finally:
                stream.cancel()
        except GoogleAPICallError as error:
            raise after_read(error, self._address) from error
        finally:
            # gRPC has a task that waits for more to ask, also where no stream came of it.
            over.set()

    async def _answers(
        self, method: Callable[..., Awaitable[Any]], request: Any, budget: Budget
    ) -> list[Any]:
        async def collect() -> list[Any]:
            call = method(request, retry=None, timeout=None, metadata=self._metadata)
            return [type(answer).pb(answer) async for answer in await call]

        lost = False
        while True:
            await self._connect(budget)
            try:
                answers = await self._bounded(collect(), budget.left())
                break
            except GoogleAPICallError as error:
                # A connection that has just been lost may still look like one.
                if lost or error.grpc_status_code is not StatusCode.UNAVAILABLE:
                    raise after_read(error, self._address) from error
                lost = True
                await asyncio.sleep(_AFTER_LOSS)
            except TimeoutError:
                raise StoreUnavailable("Firestore does not answer in time.") from None
        if not answers:
            raise StoreUnavailable("Firestore gave an empty answer.")
        self._heard(answers[-1].read_time)
        return answers

    def _heard(self, moment: Any) -> None:
        """Firestore said that it is ``moment``; the way from there took some time."""
        self._offset = seconds(moment) - time.monotonic()

    async def _connect(self, budget: Budget) -> None:
        """
        Wait until something can be sent.

        A connection that was lost is there again in a moment; and of a write that could not be
        sent it is known that it was not.
        """
        try:
            await self._bounded(self._channel.channel_ready(), budget.left(_CONNECT))
        except TimeoutError:
            raise StoreUnavailable("Firestore cannot be reached.") from None

    async def _bounded(self, call: Awaitable[_T], seconds: float) -> _T:
        """Await ``call``, with gRPC's own limit unused: it goes by the clock on the wall."""
        async with asyncio.timeout(seconds):
            return await self._unless_closed(call)

    async def _unless_closed(self, call: Awaitable[_T]) -> _T:
        """Await ``call``; what `close` cancels is no cancellation of who waits for it."""
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise StoreUnavailable("Firestore is not open any more.") from None
            raise
        except grpc.aio.UsageError as error:
            raise StoreUnavailable("Firestore is not open any more.") from error


def as_written(update_time: Any) -> types.Precondition:
    """That a document is as it was written at that raw timestamp; or, for None, is not there."""
    if update_time is None:
        return types.Precondition(exists=False)
    return types.Precondition(update_time=update_time)


def _filter(field: str, operator: str, bound: object) -> types.StructuredQuery.Filter:
    structured = types.StructuredQuery
    condition = structured.FieldFilter(
        field=structured.FieldReference(field_path=field),
        op=structured.FieldFilter.Operator[operator],  # type: ignore[misc]
        value=value(bound),
    )
    return structured.Filter(field_filter=condition)
