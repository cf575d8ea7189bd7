"""The measured app as other tools measure it.

What a request costs on its way is counted, and so is what it leaves to threads. What is cut is the way out: nothing is encoded
for a network or sent, as the documentation of each tool allows. Tools with no such way out work as they do.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.apps import Measured, Variant, make_app


def prometheus() -> Measured:
    """On: the default histogram and counter, by URL rule. No sink: the registry waits to be scraped."""
    from prometheus_client import CollectorRegistry
    from prometheus_flask_exporter import PrometheusMetrics

    app = make_app()
    PrometheusMetrics(app, registry=CollectorRegistry(), group_by="url_rule")
    return Measured(app)


def monitoring_dashboard() -> Measured:
    """On: monitoring level 1 (the default: durations, users, hits). Its sink is a SQLite file, written to by its threads."""
    import threading

    import flask_monitoringdashboard as dashboard

    dashboard.config.database_name = f"sqlite:///{Path(tempfile.mkdtemp(prefix='bench-')) / 'dashboard.db'}"
    app = make_app()
    app.secret_key = "bench"
    dashboard.bind(app)
    known = set(threading.enumerate())

    def flush() -> None:
        for thread in threading.enumerate():
            if thread not in known and thread is not threading.current_thread():
                thread.join(timeout=10)

    return Measured(app, flush, of_requests={"REMOTE_ADDR": "127.0.0.1"})


def sentry() -> Measured:
    """On: the Flask integration, a transaction for every request (`traces_sample_rate=1`); sqlite3 has no integration.

    Cut: the documented option `transport`, with one that throws envelopes away.
    """
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class NoTransport(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            pass

    sentry_sdk.init(dsn="http://key@localhost/1", transport=NoTransport, traces_sample_rate=1.0)
    return Measured(make_app())


def elastic() -> Measured:
    """On: a transaction for every request and a span for every query. Cut: the documented setting `DISABLE_SEND`."""
    from elasticapm.contrib.flask import ElasticAPM

    app = make_app()
    app.config["ELASTIC_APM"] = {
        "SERVICE_NAME": "benchmark",
        "DISABLE_SEND": True,
        "CENTRAL_CONFIG": False,
        "CLOUD_PROVIDER": "none",
        "METRICS_INTERVAL": "0s",
    }
    ElasticAPM(app)
    return Measured(app)


def datadog() -> Measured:
    """On: the Flask and sqlite3 integrations, nothing sampled away. Cut: a trace processor that drops each finished trace."""
    os.environ |= {
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        "DD_TRACE_STARTUP_LOGS": "false",
        "DD_TRACE_SAMPLING_RULES": '[{"sample_rate": 1}]',
        "DD_TRACE_RATE_LIMIT": "-1",
    }
    from ddtrace import patch
    from ddtrace.trace import TraceFilter, tracer

    class Drop(TraceFilter):
        def process_trace(self, trace: Any) -> None:  # noqa: ARG002
            return None

    patch(flask=True, sqlite3=True)
    tracer.configure(trace_processors=[Drop()])
    return Measured(make_app())


def new_relic() -> Measured:
    """On: the Flask and sqlite3 hooks, distributed tracing. Cut: `developer_mode`, which harvests but sends nothing."""
    os.environ |= {
        "NEW_RELIC_DEVELOPER_MODE": "true",
        "NEW_RELIC_LICENSE_KEY": "0" * 40,
        "NEW_RELIC_APP_NAME": "benchmark",
        "NEW_RELIC_LOG": "stderr",
        "NEW_RELIC_LOG_LEVEL": "critical",
    }
    import newrelic.agent

    newrelic.agent.initialize()
    newrelic.agent.register_application(timeout=10)
    return Measured(newrelic.agent.WSGIApplicationWrapper(make_app()))


def logfire() -> Measured:
    """On: its Flask and sqlite3 instrumentation. Cut: `send_to_logfire=False`; nothing is printed either."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http,database"
    import logfire as tool

    tool.configure(send_to_logfire=False, console=False)
    tool.instrument_sqlite3()
    app = make_app()
    tool.instrument_flask(app)
    return Measured(app)


PROMETHEUS = "prometheus-flask-exporter"

VARIANTS = (
    Variant(PROMETHEUS, prometheus, sees_queries=False, peer="prometheus-flask-exporter"),
    Variant("Flask-MonitoringDashboard", monitoring_dashboard, sees_queries=False, peer="flask-monitoringdashboard"),
    Variant("Sentry", sentry, sees_queries=False, peer="sentry"),
    Variant("Elastic APM", elastic, peer="elastic-apm"),
    Variant("ddtrace", datadog, peer="ddtrace"),
    Variant("New Relic", new_relic, peer="newrelic"),
    Variant("Logfire", logfire, peer="logfire"),
)
