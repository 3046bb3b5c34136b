"""Sends messages over SMTP connections, in as few round trips as each server allows.

Where the server offers PIPELINING (RFC 2920), a message takes two round trips here, and each
further message of a list takes one. ``pace`` knows which servers cannot really do it. Results
and errors are those of ``sendmail()``.
"""

from __future__ import annotations

import smtplib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..exceptions import is_interruption
from ..retry import NOT_SENT, set_delivery
from .connection import Reply, is_closed, is_ours
from .pace import Pace, pace_of
from .transaction import Envelope, Transaction

NOBODY: Mapping[str, Reply] = MappingProxyType({})


class Result(NamedTuple):
    """What ``sendmail()`` would have returned or raised for an envelope.

    ``refused`` are recipients who do not get the message, which the others get. With an
    error that is no answer of the server, they are those whom it has refused for good.
    """

    envelope: Envelope  # without the content, if that was written
    error: Exception | None = None
    refused: Mapping[str, Reply] = NOBODY


class _Offer:
    """An envelope whose turn it is, and what is known from earlier connections.

    It is offered again a few times at most: where a session that is not new has ended,
    because the next one is, and once at each slower pace.
    """

    pace = Pace.AHEAD  # at most
    doubt: type[Exception] | None = None  # why a faster pace may not work
    refused: Mapping[str, Reply] = NOBODY  # for good

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope


class Transmission:
    """The envelopes of one call. It survives the connections that they are sent over.

    With ``look_ahead``, the next envelope may be asked for before the result of the current
    one is known: while the server is busy with its body. ``server`` is host and port, by
    which the pace is remembered.
    """

    is_over: bool  # whether each envelope has its result
    _ahead: Transaction | None  # of what follows
    _offer: _Offer | None = None
    _error: BaseException | None = None  # of the iterator, until its turn

    def __init__(
        self, envelopes: Iterator[Envelope], server: str, *, look_ahead: bool
    ) -> None:
        self._coming = envelopes
        self._server_pace = pace_of(server)
        self._look_ahead = look_ahead
        self._ready: deque[_Offer] = deque()  # made before their turn: two at most

    @property
    def current(self) -> Envelope | None:
        """The envelope that has been taken and has no result yet, if there is one."""
        return self._offer.envelope if self._offer else None

    def raise_interruption(self) -> None:
        """Raise what has interrupted the making of a message whose turn does not come."""
        if self._error and is_interruption(self._error):
            raise self._error

    def over(
        self, connection: smtplib.SMTP, *, was_parked: bool, may_have_ended: bool
    ) -> Generator[Result, None, None]:
        """Yield the result of each envelope as soon as it is known.

        Ends when all have theirs: then ``is_over`` is true. Or when this connection can take
        no more: then it is closed, and the caller goes on with a new one.

        ``was_parked`` and ``may_have_ended`` tell of the session: where the server has ended
        it, an envelope is offered again, because the next session is new. If the caller stops
        after a result, the connection is in step or closed.

        Raises what the iterator raises, and an ``OSError`` that is not of smtplib from a
        signal handler.
        """
        if not is_ours(connection):
            yield from self._through_sendmail(connection)
            return
        self._connection = connection
        self._was_parked, self._may_have_ended = was_parked, may_have_ended
        self._ahead = None
        is_in_step = True
        try:
            while offer := self._next_offer():
                is_in_step = False
                result = self._send(offer)
                if result is None:
                    return
                self._offer = None
                is_in_step = self._ahead is None
                yield result
                if is_closed(connection):
                    self._next_offer()
                    return
        finally:
            if not is_in_step:
                connection.close()

    def _next_offer(self) -> _Offer | None:
        if self._offer is None:
            if not self._ready:
                self._make_ready()
            if self._ready:
                self._offer = self._ready.popleft()
            elif self._error:
                error, self._error = self._error, None
                raise error
            self.is_over = self._offer is None
        return self._offer

    def _make_ready(self) -> None:
        """Ask for one more envelope. An error is raised when its turn comes."""
        try:
            envelope = None if self._error else next(self._coming, None)
        except BaseException as error:
            self._error = error
        else:
            if envelope is not None:
                self._ready.append(_Offer(envelope))

    def _send(self, offer: _Offer) -> Result | None:
        """Return the result of this envelope, or ``None`` to offer it again."""
        connection = self._connection
        if offer.envelope.error:
            return Result(offer.envelope, offer.envelope.error)
        try:
            connection.ehlo_or_helo_if_needed()
            transaction = self._ahead or self._transaction(offer, Pace.GROUPED)
        except ValueError as error:  # an address that cannot be written
            return Result(offer.envelope, error)
        except BaseException as error:
            set_delivery(error, NOT_SENT)
            if not isinstance(error, smtplib.SMTPException):
                raise  # a signal handler has raised it
            is_new = not (self._was_parked or self._may_have_ended)
            return Result(offer.envelope, error) if is_new else None
        self._ahead = None
        connection.is_clean = False
        try:
            transaction.send_envelope()
            self._note_pace(offer, transaction)
            transaction.send_body()
            offer.envelope = offer.envelope._replace(content=b"")  # it may be large
            self._write_ahead()
            transaction.read_body_reply()
        except smtplib.SMTPException as error:
            set_delivery(error, transaction.delivery())
            if self._must_offer_again(offer, transaction, error):
                return None
            return self._failure(offer, transaction, error)
        except BaseException as error:  # from a signal handler
            set_delivery(error, transaction.delivery())
            raise
        connection.is_clean = self._ahead is None
        return Result(offer.envelope, refused=transaction.refused)

    def _transaction(self, offer: _Offer, pace: Pace) -> Transaction:
        known = self._server_pace
        pace = min(pace, offer.pace, known.fastest)
        if not self._connection.has_extn("pipelining"):
            pace = Pace.SINGLE
        if self._connection.has_extn("burl"):  # Dovecot breaks down behind some bodies
            pace = min(pace, Pace.GROUPED)
        return Transaction(self._connection, offer.envelope, pace, known, offer.refused)

    def _write_ahead(self) -> None:
        """Write the commands of the next envelope while the server is busy with a body.

        RFC 2920, 3.1 allows the content of a message to be the first "command" of a group.
        The commands go into a separate write, and so a separate TLS record, because a server
        may stop reading at the end of the body.
        """
        if not self._look_ahead:
            return
        if not self._ready:
            self._make_ready()
        if not self._ready or self._ready[0].envelope.error:
            return
        try:
            transaction = self._transaction(self._ready[0], Pace.AHEAD)
        except ValueError:  # raised when its turn comes
            return
        if transaction.pace is Pace.AHEAD:
            self._ahead = transaction
            transaction.write_commands()
            # So that its commands can be written at once. Making a message takes a while.
            self._make_ready()

    def _note_pace(self, offer: _Offer, transaction: Transaction) -> None:
        """Remember that the server takes this pace, and no faster one if that has failed."""
        self._server_pace.worked(transaction.pace)
        if offer.doubt and transaction.was_understood:
            self._server_pace.slow_down(transaction.pace)

    def _must_offer_again(
        self, offer: _Offer, transaction: Transaction, error: smtplib.SMTPException
    ) -> bool:
        """Whether the envelope gets another chance over a new connection.

        Only if certainly nobody has it, for one of three reasons. The session is not new. The
        server may not take the pace. Or its refusal may be lost: a server that closes before
        it has read everything sends a TCP reset, which destroys unread replies.
        """
        if transaction.body_was_sent:
            return False
        has_ended = transaction.has_ended()
        is_silent = isinstance(error.__context__, TimeoutError)
        if transaction.was_understood and not is_silent:
            offer.refused = transaction.refused_for_good()
        # A server that refuses MAIL may have lost the login or the greeting: 530, 503, 554.
        is_of_session = not transaction.refusal or isinstance(error, smtplib.SMTPSenderRefused)
        has_left = is_of_session or transaction.has_given_up()
        if (self._was_parked and has_left) or (self._may_have_ended and has_ended):
            return True
        pace = transaction.pace
        if transaction.body_was_begun or pace is Pace.SINGLE:
            return False
        # chasquid swallows what follows a body only now and then, so that silence there says
        # something about the pace, also where it has worked.
        is_swallowed = is_silent and pace is Pace.AHEAD
        is_doubted = pace > self._server_pace.proven or is_swallowed
        if not transaction.was_understood or (has_ended and is_doubted):
            offer.pace = Pace(pace - 1)
            offer.doubt = type(error)
            return True
        if has_ended and not is_silent and (pace is Pace.AHEAD or not transaction.refusal):
            offer.pace = Pace.SINGLE
            return True
        return False

    def _failure(
        self, offer: _Offer, transaction: Transaction, error: smtplib.SMTPException
    ) -> Result:
        """Return the result of an envelope that has failed for good."""
        connection = self._connection
        has_ended = transaction.has_ended()
        if has_ended and self._ahead:  # some servers can do it by chance
            self._server_pace.slow_down(Pace.GROUPED)
        # The pace is not to blame if one command at a time gets the same.
        is_new = offer.doubt not in (None, type(error))
        if is_new and transaction.was_understood and not has_ended:
            self._server_pace.slow_down(transaction.pace)
        # Its frames hold the message, and the error itself: a reference cycle.
        error.__traceback__ = None
        if error is transaction.refusal:
            transaction.resync(with_rset=self._ahead is None)
            connection.is_clean = not transaction.has_given_up()
            return Result(offer.envelope, error)
        connection.close()
        return Result(offer.envelope, error, transaction.refused_for_good())

    def _through_sendmail(self, connection: smtplib.SMTP) -> Generator[Result, None, None]:
        while offer := self._next_offer():
            result = _sent_by(connection, offer.envelope)
            self._offer = None
            yield result


def _sent_by(connection: smtplib.SMTP, envelope: Envelope) -> Result:
    if envelope.error:
        return Result(envelope, envelope.error)
    try:
        refused = connection.sendmail(envelope.sender, envelope.recipients, envelope.content)
    except smtplib.SMTPException as error:
        return Result(envelope, error)
    return Result(envelope, refused=refused)
