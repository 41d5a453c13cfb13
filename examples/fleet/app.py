"""The WSGI application: answers from a report that the hosts share, and creates it when it is elected.

========================  =========================================================================
``FLEET_HOST``            name of this host
``FLEET_DATAFILE``        the replica of this host
``FLEET_ORIGIN``          URL of the origin
``FLEET_RECORD``          directory of the record
``FLEET_EXPIRE``          seconds after which the report is stale
``FLEET_CREATION``        seconds that the creator takes
``FLEET_TTL``             seconds after which another host takes over a creation of which it hears nothing
``FLEET_CHECK``           seconds between two questions of a host to the origin
``FLEET_MAX_STALE``       age in seconds beyond which no request is answered from the report
========================  =========================================================================
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

from dogpile_fs import Datafile, Origin
from dogpile_fs.events import Event
from fleet.record import Record, Step

#: How a creation ends, by the event that tells so.
_ENDS: dict[str, Step] = {"created": "created", "fenced": "fenced", "failed": "failed"}


class Reports:
    """The application of one worker."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.host = environment["FLEET_HOST"]
        self.creation = float(environment["FLEET_CREATION"])
        self.record = Record(Path(environment["FLEET_RECORD"]), self.host)
        self.token = ""  # of the creation that this worker has begun last
        self.datafile = Datafile(
            environment["FLEET_DATAFILE"],
            float(environment["FLEET_EXPIRE"]),
            self.create,
            origin=Origin(
                environment["FLEET_ORIGIN"],
                ttl=float(environment["FLEET_TTL"]),
                check=float(environment["FLEET_CHECK"]),
            ),
            max_stale=float(environment["FLEET_MAX_STALE"]),
            on_event=self.note,
        )

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        report = self.datafile.load(json.load)
        age = time.time() - report["created"]
        body = f"generation {report['generation']}, {age:.1f} s old, by worker {os.getpid()} of {self.host}\n"
        # nginx puts these into its log, which is the record of all answers.
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Host", self.host),
            ("X-Pid", str(os.getpid())),
            ("X-Token", report["token"]),
            ("X-Generation", str(report["generation"])),
            ("X-Age", f"{age:.3f}"),
        ]
        start_response("200 OK", headers)
        return [body.encode()]

    def create(self, target: str) -> None:
        """Build the next version at *target*; a slow query stands behind it."""
        generation = self.datafile.status().generation + 1
        # Two hosts may create the same generation, one of them in vain: the token tells which it was.
        self.token = secrets.token_hex(8)
        self.record.write("begin", self.token, generation=generation)
        time.sleep(self.creation)
        created = time.time()
        with open(target, "w") as file:
            json.dump({"generation": generation, "token": self.token, "created": created}, file)
        self.record.write("built", self.token, generation=generation)

    def note(self, event: Event) -> None:
        """Record how a creation of this worker has ended."""
        step = _ENDS.get(event.kind)
        if step is not None and self.token:
            self.record.write(step, self.token, generation=event.generation)
            self.token = ""


application = Reports(os.environ)
