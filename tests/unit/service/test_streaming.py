from __future__ import annotations

import gc
import os
import sys
import threading
from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient

from service import errors
from service.streaming import CHUNK_BYTES, FileBody, Slots, send_file

CONTENT = bytes(range(256)) * 4
MODIFIED_S = 1_700_000_000


class BufferedClient(FlaskClient):
    def open(self, *args, buffered=True, **options):
        return super().open(*args, buffered=buffered, **options)


class CountingSlots(Slots):
    def __init__(self, count):
        super().__init__(count)
        self.taken = 0

    def take(self):
        super().take()
        self.taken += 1

    def free(self):
        super().free()
        self.taken -= 1


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(CONTENT)
    os.utime(path, (MODIFIED_S, MODIFIED_S))
    return path


@pytest.fixture
def slots():
    return CountingSlots(2)


@pytest.fixture
def client(file, slots):
    app = Flask(__name__)
    app.register_error_handler(errors.ServerError, lambda error: (str(error), error.status))
    app.add_url_rule("/film", view_func=lambda: send_file(file, "video/mp4", request, slots))
    app.test_client_class = BufferedClient
    return app.test_client()


def parts_of(response) -> list[tuple[str, bytes]]:
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + response.data, policy=HTTP)
    return [(part["Content-Range"], part.get_payload(decode=True)) for part in message.iter_parts()]


def test_the_whole_file_comes_with_its_type_its_tag_and_the_word_that_ranges_work(client):
    response = client.get("/film")
    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.mimetype == "video/mp4"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Length"] == "1024"
    assert response.headers["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert response.get_etag()[1] is False


def test_a_head_request_gets_the_headers_and_no_byte(client, slots):
    response = client.head("/film", headers={"Range": "bytes=0-9"})
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["Content-Length"] == "1024"
    assert slots.taken == 0


def test_one_range_comes_as_206_with_its_place(client):
    response = client.get("/film", headers={"Range": "bytes=10-19"})
    assert (response.status_code, response.data) == (206, CONTENT[10:20])
    assert response.headers["Content-Range"] == "bytes 10-19/1024"
    assert response.headers["Content-Length"] == "10"


def test_several_ranges_come_as_parts_in_the_order_they_were_asked(client):
    response = client.get("/film", headers={"Range": "bytes=500-509,0-4,-3"})
    assert response.status_code == 206
    assert int(response.headers["Content-Length"]) == len(response.data)
    assert parts_of(response) == [
        ("bytes 500-509/1024", CONTENT[500:510]),
        ("bytes 0-4/1024", CONTENT[:5]),
        ("bytes 1021-1023/1024", CONTENT[1021:]),
    ]


def test_ranges_that_overlap_come_as_one(client):
    response = client.get("/film", headers={"Range": "bytes=0-9,5-19"})
    assert (response.status_code, response.data) == (206, CONTENT[:20])
    assert response.headers["Content-Range"] == "bytes 0-19/1024"


def test_a_range_past_the_end_is_416_with_the_size(client, slots):
    response = client.get("/film", headers={"Range": "bytes=5000-"})
    assert (response.status_code, response.data) == (416, b"")
    assert response.headers["Content-Range"] == "bytes */1024"
    assert slots.taken == 0


def test_a_malformed_range_is_ignored(client):
    assert client.get("/film", headers={"Range": "bytes=x"}).status_code == 200


def test_an_empty_file_has_no_range_to_give(client, file):
    file.write_bytes(b"")
    assert client.get("/film").status_code == 200
    assert client.get("/film", headers={"Range": "bytes=0-"}).status_code == 416


@pytest.mark.parametrize("prefix", ["", "W/", '"other", '])
def test_a_client_that_has_the_file_gets_304(client, prefix):
    etag = client.get("/film").headers["ETag"]
    response = client.get("/film", headers={"If-None-Match": prefix + etag, "Range": "bytes=0-9"})
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == etag


def test_the_tag_counts_more_than_the_date(client):
    headers = {"If-None-Match": '"other"', "If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"}
    assert client.get("/film", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("date", "status"), [("Tue, 14 Nov 2023 22:13:20 GMT", 304), ("Tue, 14 Nov 2023 22:13:19 GMT", 200)]
)
def test_a_client_that_has_the_date_gets_304(client, date, status):
    assert client.get("/film", headers={"If-Modified-Since": date}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "*"}, 200),
        ({"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 412),
        ({"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"}, 200),
    ],
)
def test_a_condition_on_an_older_state_fails(client, headers, status):
    assert client.get("/film", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        ("{etag}", 206),
        ("W/{etag}", 200),
        ('"other"', 200),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 206),
        ("Tue, 14 Nov 2023 22:13:21 GMT", 200),
        ("yesterday", 200),
    ],
)
def test_a_range_of_an_older_state_gets_the_whole_file(client, if_range, status):
    value = if_range.format(etag=client.get("/film").headers["ETag"])
    assert client.get("/film", headers={"Range": "bytes=0-9", "If-Range": value}).status_code == status


@pytest.mark.parametrize(
    ("modified_s", "date"),
    [(2**40, "Fri, 31 Dec 9999 23:59:59 GMT"), (-(2**40), "Mon, 01 Jan 0001 00:00:00 GMT")],
    ids=["after the year 9999", "before the year 1"],
)
def test_a_file_of_a_year_that_http_cannot_say_has_the_nearest_date_that_it_can(client, file, modified_s, date):
    memory = Path("/dev/shm")  # of the common file systems tmpfs alone keeps such a date
    if not memory.is_dir():
        pytest.skip("there is no tmpfs")
    with NamedTemporaryFile(dir=memory) as far:
        os.utime(far.name, (modified_s, modified_s))
        file.unlink()
        file.symlink_to(far.name)
        response = client.get("/film")
        assert (response.status_code, response.headers["Last-Modified"]) == (200, date)
        assert client.get("/film", headers={"If-Modified-Since": date}).status_code == 304


def test_a_changed_file_has_another_tag(client, file):
    before = client.get("/film").headers["ETag"]
    file.write_bytes(CONTENT[::-1])
    assert client.get("/film").headers["ETag"] != before


def test_a_body_is_read_in_chunks_and_frees_its_slot_when_closed(client, file, slots):
    file.write_bytes(bytes(CHUNK_BYTES * 2 + 1))
    response = client.get("/film", buffered=False)
    chunks = response.iter_encoded()
    assert len(next(chunks)) == CHUNK_BYTES
    assert slots.taken == 1
    response.close()
    assert slots.taken == 0
    response.close()
    assert slots.taken == 0


def test_a_body_that_an_error_takes_the_place_of_frees_its_slot(client, slots, monkeypatch):
    def fail(_):
        raise RuntimeError("the answer was ready, and is none")

    monkeypatch.setattr(client.application.logger, "disabled", True)  # else pytest keeps the error
    client.application.after_request(fail)
    assert client.get("/film").status_code == 500
    gc.collect()  # the error that the answer became holds the frames that hold the body
    assert slots.taken == 0


def test_a_body_that_another_answer_takes_the_place_of_frees_its_slot_at_once(client, slots):
    client.application.after_request(lambda _: Response("instead"))
    assert client.get("/film").data == b"instead"
    assert slots.taken == 0


def test_a_transfer_without_a_free_slot_is_refused_at_once(client, slots):
    slots.take()
    slots.take()
    assert client.get("/film").status_code == 503
    slots.free()
    assert client.get("/film").status_code == 200


def test_a_body_may_be_collected_wherever_the_same_thread_takes_or_frees_a_slot(file):
    slots = Slots(100)
    forgotten = [FileBody(file.open("rb"), [], b"", slots) for _ in range(50)]

    def collect(*_):
        del forgotten[-1:]
        return collect

    def transfer():
        sys.settrace(collect)  # at each line, as the collector may
        FileBody(file.open("rb"), [], b"", slots).close()

    thread = threading.Thread(target=transfer, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert len(forgotten) < 50
    forgotten.clear()
    for _ in range(100):
        slots.take()
    with pytest.raises(errors.BusyError):
        slots.take()


def test_a_file_that_is_cut_short_meanwhile_ends_the_body(client, file):
    file.write_bytes(bytes(CHUNK_BYTES * 3))
    response = client.get("/film", buffered=False)
    chunks = response.iter_encoded()
    next(chunks)
    os.truncate(file, CHUNK_BYTES)
    assert sum(map(len, chunks)) < CHUNK_BYTES * 2
    response.close()
