"""Four apps: one as Flask's tutorial has it, one on SQLAlchemy, one on peewee, one with threads.

Each has routes that end in a number, which seeds what the request does and makes its path its name. `close` of an app's
`extensions` ends what it holds.
"""

from __future__ import annotations

import contextvars
import functools
import queue
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peewee
from flask import Flask, Response, abort, g, render_template_string, stream_with_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload

SCHEMA = """
DROP TABLE IF EXISTS user;
DROP TABLE IF EXISTS post;
CREATE TABLE user (id INTEGER PRIMARY KEY, username TEXT UNIQUE NOT NULL);
CREATE TABLE post (id INTEGER PRIMARY KEY, author_id INTEGER NOT NULL, title TEXT NOT NULL);
INSERT INTO user VALUES (1, 'one'), (2, 'two'), (3, 'three');
"""
Prepare = Callable[[], None]
"""Makes the tables, once the app is instrumented."""


def nested(app: Flask, number: int) -> str:
    """Ask the app itself, from inside of a request."""
    return app.test_client().get(f"/index/{number + 10_000_000}").text


def flaskr(file: Path) -> tuple[Flask, Prepare]:
    """Flask's tutorial: a connection in `g`, closed when the app context ends, and a schema that is a script."""
    app = Flask("flaskr")

    def get_db() -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(file, detect_types=sqlite3.PARSE_DECLTYPES)
            g.db.row_factory = sqlite3.Row
        return g.db  # type: ignore[no-any-return]

    @app.teardown_appcontext
    def close_db(_: BaseException | None) -> None:
        db = g.pop("db", None)
        if db is not None:
            db.close()

    def init_db() -> None:
        with app.app_context():
            get_db().executescript(SCHEMA)

    @app.before_request
    def load_logged_in_user() -> None:
        g.user = get_db().execute("SELECT * FROM user WHERE id = ?", (1,)).fetchone()

    @app.get("/index/<int:n>")
    def index(n: int) -> str:
        posts = get_db().execute("SELECT p.id, title, author_id FROM post p JOIN user u ON p.author_id = u.id LIMIT 20")
        return render_template_string(
            "{% for post in posts %}{{ db.execute('SELECT username FROM user WHERE id = ?', (post['author_id'],))"
            ".fetchone()['username'] }}: {{ post['title'] }}\n{% endfor %}",
            posts=posts.fetchall()[: n % 7],
            db=get_db(),
        )

    @app.post("/create/<int:n>")
    def create(n: int) -> tuple[str, int]:
        db = get_db()
        db.execute("INSERT INTO post (title, author_id) VALUES (?, ?)", (f"title {n}", g.user["id"]))
        if n % 2:
            db.executemany("INSERT INTO post (title, author_id) VALUES (?, ?)", [(f"more {n}", 2)] * (n % 4))
        db.commit()
        return "", 201

    @app.post("/register/<int:n>")
    def register(n: int) -> tuple[str, int]:
        db = get_db()
        try:
            db.execute("INSERT INTO user (username) VALUES (?)", ("one",))
            db.commit()
        except db.IntegrityError:
            db.cursor().execute("SELECT 1").execute("SELECT 2")
            return "taken", 409
        return "", 201

    @app.get("/export/<int:n>")
    def export(n: int) -> Response:
        @stream_with_context
        def lines() -> Iterator[str]:
            for user in get_db().execute("SELECT id, username FROM user").fetchall():
                count = get_db().execute("SELECT count(*) FROM post WHERE author_id = ?", (user["id"],)).fetchone()[0]
                yield f"{user['username']},{count}\n"
                if n % 5 == 4:
                    raise RuntimeError("the export broke off")

        return Response(lines(), mimetype="text/csv")

    @app.get("/broken/<int:n>")
    def broken(n: int) -> str:
        get_db().execute("SELECT * FROM post LIMIT ?", (n % 3,)).fetchall()
        if n % 3 == 0:
            get_db().execute("SELECT * FROM missing")
        if n % 3 == 1:
            abort(404)
        raise RuntimeError("the view failed")

    @app.get("/nested/<int:n>")
    def inner(n: int) -> str:
        get_db().execute("SELECT 1")
        found = nested(app, n)
        get_db().execute("SELECT 2")
        return found

    app.extensions["close"] = lambda: None
    return app, init_db


def sqlalchemy_app(file: Path) -> tuple[Flask, Prepare]:
    """Flask-SQLAlchemy, with its pool."""
    app = Flask("alchemy")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{file}"
    db = SQLAlchemy()

    class User(db.Model):  # type: ignore[name-defined, misc]
        id = db.Column(db.Integer, primary_key=True)
        username = db.Column(db.String, unique=True, nullable=False)

    class Post(db.Model):  # type: ignore[name-defined, misc]
        id = db.Column(db.Integer, primary_key=True)
        author_id = db.Column(db.ForeignKey(User.id), nullable=False)
        title = db.Column(db.String, nullable=False)
        author = db.relationship(User)

    db.init_app(app)

    def prepare() -> None:
        with app.app_context():
            db.create_all()
            db.session.add_all([User(id=1, username="one"), User(id=2, username="two"), User(id=3, username="three")])
            db.session.commit()

    @app.get("/index/<int:n>")
    def index(n: int) -> str:
        query = db.select(Post).limit(n % 9)
        if n % 2:
            query = query.options(joinedload(Post.author))
        return "\n".join(f"{post.author.username}: {post.title}" for post in db.session.scalars(query))

    @app.post("/create/<int:n>")
    def create(n: int) -> tuple[str, int]:
        db.session.add_all([Post(author_id=1 + n % 3, title=f"title {n}") for _ in range(n % 4)])
        if n % 3 == 0:
            db.session.execute(db.insert(Post), [{"author_id": 1, "title": "bulk"}] * (n % 5 + 1))
        db.session.commit()
        return "", 201

    @app.post("/register/<int:n>")
    def register(n: int) -> tuple[str, int]:
        db.session.add(User(username="one"))
        try:
            db.session.commit()
        except IntegrityError:
            db.session.rollback()
            return str(db.session.get(User, 1).username), 409
        return "", 201

    @app.get("/broken/<int:n>")
    def broken(n: int) -> str:
        db.session.execute(db.text("SELECT 1" if n % 2 else "SELECT * FROM missing"))
        raise RuntimeError("the view failed")

    @app.get("/nested/<int:n>")
    def inner(n: int) -> str:
        db.session.execute(db.text("SELECT 1"))
        return nested(app, n)

    def close() -> None:
        with app.app_context():
            db.engine.dispose()

    app.extensions["close"] = close
    return app, prepare


def peewee_app(file: Path) -> tuple[Flask, Prepare]:
    """Peewee: a connection for each request, transactions by its own BEGIN."""
    app = Flask("pewee")
    database = peewee.SqliteDatabase(file)

    class Model(peewee.Model):
        class Meta:
            pass

    Model._meta.database = database

    class User(Model):
        username = peewee.TextField(unique=True)

        class Meta:
            database = Model._meta.database

    class Post(Model):
        author = peewee.ForeignKeyField(User, backref="posts")
        title = peewee.TextField()

        class Meta:
            database = Model._meta.database

    def prepare() -> None:
        with database:
            database.create_tables([User, Post])
            User.insert_many([{"username": name} for name in ("one", "two", "three")]).execute()

    @app.before_request
    def connect() -> None:
        g.opened = database.connect(reuse_if_open=True)

    @app.teardown_request
    def close_db(_: BaseException | None) -> None:
        if g.pop("opened", False) and not database.is_closed():
            database.close()

    @app.get("/index/<int:n>")
    def index(n: int) -> str:
        return "\n".join(f"{post.author.username}: {post.title}" for post in Post.select().limit(n % 9))

    @app.get("/people/<int:n>")
    def people(n: int) -> str:
        users = User.select().limit(n % 4)
        if n % 2:
            return str([len(user.posts) for user in peewee.prefetch(users, Post.select())])
        return str([user.posts.count() for user in users])

    @app.post("/create/<int:n>")
    def create(n: int) -> tuple[str, int]:
        with database.atomic():
            for at in range(n % 4):
                with database.atomic():
                    Post.create(author=1 + at % 3, title=f"title {n}")
        return "", 201

    @app.post("/register/<int:n>")
    def register(n: int) -> tuple[str, int]:
        try:
            with database.atomic():
                User.create(username="one")
        except peewee.IntegrityError:
            return "taken", 409
        return "", 201

    @app.get("/broken/<int:n>")
    def broken(n: int) -> str:
        database.execute_sql("SELECT 1" if n % 2 else "SELECT * FROM missing")
        raise RuntimeError("the view failed")

    @app.get("/nested/<int:n>")
    def inner(n: int) -> str:
        database.execute_sql("SELECT 1")
        return nested(app, n)

    app.extensions["close"] = lambda: database.is_closed() or database.close()
    return app, prepare


def threaded(file: Path) -> tuple[Flask, Prepare]:
    """Connections that threads share: one for all, a pool, one for each request; threads with the request's context."""
    app = Flask("threaded")
    pool: queue.Queue[sqlite3.Connection] = queue.Queue()
    shared: list[sqlite3.Connection] = []
    lock = threading.Lock()

    def prepare() -> None:
        for _ in range(3):
            pool.put(sqlite3.connect(file, check_same_thread=False, timeout=30))
        shared.append(sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30))
        shared[0].executescript(SCHEMA)

    def ask(number: int) -> Any:
        with lock:
            return shared[0].cursor().execute("SELECT username FROM user WHERE id = ?", (number % 3 + 1,)).fetchone()

    def ask_pool(number: int) -> Any:
        db = pool.get()
        try:
            return db.execute("SELECT count(*) FROM post WHERE author_id = ?", (number,)).fetchone()
        finally:
            pool.put(db)

    @app.get("/index/<int:n>")
    def index(n: int) -> str:
        return str([ask(at) for at in range(n % 6)])

    @app.get("/executor/<int:n>")
    def executor(n: int) -> str:
        with ThreadPoolExecutor(3) as workers:
            asked = [
                workers.submit(contextvars.copy_context().run, ask if at % 2 else ask_pool, at) for at in range(n % 8)
            ]
        return str([each.result() for each in asked])

    @app.get("/threads/<int:n>")
    def threads(n: int) -> str:
        started = []
        for at in range(n % 4):
            context = contextvars.copy_context()
            work = functools.partial(context.run, lambda at=at: (ask(at), ask_pool(at)))
            started.append(threading.Thread(target=work))
            started[-1].start()
        for thread in started:
            thread.join()
        return "done"

    @app.get("/generator/<int:n>")
    def generator(n: int) -> Response:
        def lines() -> Iterator[str]:
            for at in range(n % 5):
                yield str(ask(at))
            with ThreadPoolExecutor(1) as workers:
                yield str(workers.submit(contextvars.copy_context().run, ask_pool, n).result())

        return Response(lines())

    @app.post("/write/<int:n>")
    def write(n: int) -> tuple[str, int]:
        with lock:
            shared[0].execute("BEGIN IMMEDIATE")
            for at in range(n % 3):
                shared[0].execute("INSERT INTO post (author_id, title) VALUES (?, ?)", (at, f"title {n}"))
            shared[0].execute("COMMIT" if n % 2 else "ROLLBACK")
        return "", 201

    @app.get("/nested/<int:n>")
    def inner(n: int) -> str:
        ask(n)
        with ThreadPoolExecutor(1) as workers:
            return workers.submit(contextvars.copy_context().run, nested, app, n).result()

    def close() -> None:
        for db in [*shared, *(pool.get() for _ in range(pool.qsize()))]:
            db.close()

    app.extensions["close"] = close
    return app, prepare


APPS = {"flaskr": flaskr, "sqlalchemy": sqlalchemy_app, "peewee": peewee_app, "threaded": threaded}


def random_request(app: Flask, chance: random.Random, number: int) -> tuple[str, str]:
    """Return the method and the path of a request that `app` may be asked."""
    rules = sorted((rule for rule in app.url_map.iter_rules() if "<int:n>" in rule.rule), key=lambda rule: rule.rule)
    rule = chance.choice(rules)
    method = "POST" if "POST" in (rule.methods or ()) else "GET"
    return method, rule.rule.replace("<int:n>", str(number * 1000 + chance.randrange(1000)))
