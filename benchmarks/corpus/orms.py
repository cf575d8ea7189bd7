"""Shapes that SQLAlchemy and peewee make."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import peewee
from flask import current_app
from sqlalchemy import Column, ForeignKey, Integer, String, create_engine, insert, select
from sqlalchemy.orm import Session, declarative_base, joinedload, relationship, selectinload
from sqlalchemy.pool import NullPool

from benchmarks.corpus import shape
from telemetry.fanout import BULK, N_PLUS_ONE, PAGING, WRITE_LOOP

Base: Any = declarative_base()


class User(Base):
    """A user of the blog, for SQLAlchemy."""

    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    name = Column(String)


class Post(Base):
    """A post of the blog, for SQLAlchemy."""

    __tablename__ = "posts"
    id = Column(Integer, primary_key=True)
    author_id = Column(ForeignKey("users.id"))
    title = Column(String)
    author = relationship(User)


class Event(Base):
    """An event, for SQLAlchemy."""

    __tablename__ = "events"
    id = Column(Integer, primary_key=True)
    name = Column(String)


@contextlib.contextmanager
def session() -> Iterator[Session]:
    """A session on the request's database."""
    engine = create_engine(f"sqlite:///{current_app.config['DATABASE']}", poolclass=NullPool)
    with Session(engine) as made:
        yield made


@shape((N_PLUS_ONE, "users"), source="LuteOrg/lute-v3: GET /settings/index reads its settings one by one")
def sqlalchemy_first_by_name(_: sqlite3.Connection) -> Any:
    with session() as made:
        return [made.query(User).filter(User.name.ilike(f"user {number}")).first() is None for number in range(12)]


@shape((PAGING, "posts"))
def sqlalchemy_pages(_: sqlite3.Connection) -> Any:
    with session() as made:
        pages = (made.query(Post).order_by(Post.id).limit(10).offset(10 * number).all() for number in range(8))
        return [post.title for page in pages for post in page]


@shape((N_PLUS_ONE, "users"), source="uc-cdis/indexd pull 160: GET /index without joinedload")
def sqlalchemy_lazy(_: sqlite3.Connection) -> Any:
    with session() as made:
        return [post.author.name for post in made.scalars(select(Post))]


@shape(source="uc-cdis/indexd pull 160: the mend")
def sqlalchemy_joined(_: sqlite3.Connection) -> Any:
    with session() as made:
        return [post.author.name for post in made.scalars(select(Post).options(joinedload(Post.author)))]


@shape(source="SQLAlchemy's documentation: select IN loading")
def sqlalchemy_select_in(_: sqlite3.Connection) -> Any:
    with session() as made:
        return [post.author.name for post in made.scalars(select(Post).options(selectinload(Post.author)))]


@shape((N_PLUS_ONE, "users"), source="miguelgrinberg/flasky issue 98: User.query by id, here for each name")
def sqlalchemy_first_of_each(_: sqlite3.Connection) -> Any:
    with session() as made:
        for post in made.scalars(select(Post)).all():
            made.query(User).filter_by(name=f"user {post.id}").first()


@shape()
def sqlalchemy_identity_map(_: sqlite3.Connection) -> Any:
    with session() as made:
        return [made.get(User, 1) for _ in range(9)]


@shape((WRITE_LOOP, "events"))
def sqlalchemy_added_at_once(_: sqlite3.Connection) -> Any:
    # To know each key, SQLAlchemy 2.1 sends SQLite one INSERT … RETURNING for each row.
    with session() as made:
        made.add_all([Event(name=f"event {at}") for at in range(9)])
        made.commit()


@shape((BULK, "events"), source="SQLAlchemy's documentation: ORM bulk INSERT statements")
def sqlalchemy_bulk_insert(_: sqlite3.Connection) -> Any:
    with session() as made:
        made.execute(insert(Event), [{"name": f"event {at}"} for at in range(9)])
        made.commit()


@shape((WRITE_LOOP, "events"))
def sqlalchemy_flushed_one_by_one(_: sqlite3.Connection) -> Any:
    with session() as made:
        for at in range(9):
            made.add(Event(name=f"event {at}"))
            made.flush()
        made.commit()


database = peewee.DatabaseProxy()


class Person(peewee.Model):
    """A user of the blog, for peewee."""

    name = peewee.TextField()

    class Meta:
        """Where it is."""

        database = database
        table_name = "users"


class Article(peewee.Model):
    """A post of the blog, for peewee."""

    author = peewee.ForeignKeyField(Person, backref="articles")
    title = peewee.TextField()

    class Meta:
        """Where it is."""

        database = database
        table_name = "posts"


@contextlib.contextmanager
def bound() -> Iterator[None]:
    """The models on the request's database."""
    made = peewee.SqliteDatabase(current_app.config["DATABASE"])
    database.initialize(made)
    with contextlib.closing(made):
        yield


@shape((N_PLUS_ONE, "users"), source="peewee's documentation: Avoiding the N+1 problem")
def peewee_foreign_keys(_: sqlite3.Connection) -> Any:
    with bound():
        return [article.author.name for article in Article.select()]


@shape((N_PLUS_ONE, "posts"), source="peewee's documentation: counting the rows of a back reference")
def peewee_count_of_each(_: sqlite3.Connection) -> Any:
    with bound():
        return [person.articles.count() for person in Person.select()]


@shape(source="peewee's documentation: prefetch")
def peewee_prefetched(_: sqlite3.Connection) -> Any:
    with bound():
        return [len(person.articles) for person in peewee.prefetch(Person.select(), Article.select())]


@shape((WRITE_LOOP, "posts"))
def peewee_save_of_each(_: sqlite3.Connection) -> Any:
    with bound():
        for article in Article.select():
            article.title += "!"
            article.save()
