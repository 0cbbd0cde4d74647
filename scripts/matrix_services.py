"""The rows of the matrix that install packages, run servers, or must be refused."""

from __future__ import annotations

from scripts.matrix_rows import ALPINE, DEBIAN, SMALL, Row
from scripts.matrix_systems import DAEMONS

INSTALLS = (
    Row(
        "apt install, 40 packages with daemons",
        "export DEBIAN_FRONTEND=noninteractive\n"
        "apt-get -q -y --no-download --no-install-recommends install $PACKAGES >/opt/apt.log 2>&1 ||"
        " { grep -E '^(E:|dpkg: error|[^ ]*: error)|rror' /opt/apt.log | head -3\nexit 1; }\n"
        "[ \"$(dpkg-query -W -f '${db:Status-Status}\\n' $PACKAGES | grep -c '^installed')\" = 40 ]\n"
        '[ -z "$(dpkg --audit)" ] && echo "yes-$TOKEN"',
        systems=SMALL,
        seconds=420,
    ),
    Row(
        "postgres (package)",
        "pg_lsclusters -h | grep -q . || { echo 'the package made no cluster' && exit 1; }\n"
        'sed -i "s/^port = .*/port = $PORT/" /etc/postgresql/*/main/postgresql.conf\n'
        "service postgresql start\nsleep 2\ncd /\n"
        "su postgres -c \"psql -p $PORT -Atc 'create table t(a int)'\"\n"
        'su postgres -c "psql -p $PORT -Atc \\"select \'yes-$TOKEN\' where (select count(*) from t) = 0\\""\n'
        "service postgresql stop >/dev/null",
        systems=SMALL,
    ),
    Row(
        "apk add, 40 packages with services",
        "apk add -q --allow-untrusted --no-network --repository /packages/APKINDEX.adb"
        " $(seq 40 | sed 's/^/matrix-/') 2>/opt/apk.log || { grep -i error /opt/apk.log | head -3 && exit 1; }\n"
        "for n in $(seq 40); do\n"
        "    apk info -e -q matrix-$n\n[ -e /var/lib/matrix-$n/installed ]\nid -u matrix-$n >/dev/null\n"
        "    [ /usr/sbin/matrix-$n -ef /usr/sbin/matrix-$n-hard ]\n"
        'done\napk audit --packages >/dev/null\necho "yes-$TOKEN"',
        systems=ALPINE,
        version_of=("apk-tools",),
    ),
)

SERVERS = (
    Row(
        "postgres (image-like, gosu)",
        "postgres-entry postgres -p $PORT -c unix_socket_directories=/tmp >/opt/postgres.log 2>&1 & sleep 1\n"
        "for n in $(seq 20); do\n"
        "    psql -h 127.0.0.1 -p $PORT -U postgres -Atc 'select 1' >/dev/null 2>&1 && break\n"
        "    kill -0 $! 2>/dev/null || { tail -2 /opt/postgres.log && exit 1; }\n"
        "    sleep 1\ndone\n"
        "psql -h 127.0.0.1 -p $PORT -U postgres -Atc \"create table t(a int); select 'yes-$TOKEN'\" | grep yes ||"
        " { tail -2 /opt/postgres.log && exit 1; }\nkill $!",
        systems=DEBIAN,
        version_of=("postgresql-15", "gosu"),
        seconds=45,
    ),
    Row(
        "mariadb",
        "printf '[mysqld]\\nskip-networking\\n' >/etc/mysql/mariadb.conf.d/99-matrix.cnf\n"
        "service mariadb start >/opt/mariadb.log 2>&1 ||"
        " { tail -1 /opt/mariadb.log; tail -2 /var/lib/mysql/*.err /var/log/mysql/error.log 2>/dev/null; exit 1; }\n"
        "mariadb -Ne \"create database m; create table m.t(a text); insert into m.t values('yes-$TOKEN');"
        ' select a from m.t"\nmysqladmin shutdown',
        systems=DEBIAN,
        version_of=("mariadb-server",),
    ),
    Row(
        "redis",
        "mkdir -p /opt/redis\ncd /opt/redis\nredis-server --port $PORT --daemonize yes >/dev/null\n"
        "sleep 1; redis-cli -p $PORT set key yes-$TOKEN >/dev/null\nredis-cli -p $PORT bgsave >/dev/null\nsleep 1\n"
        "[ -s dump.rdb ] && redis-cli -p $PORT get key && redis-cli -p $PORT shutdown nosave",
        systems=DEBIAN,
        version_of=("redis-server",),
    ),
)

REFUSED = (
    Row(
        "systemd refused",
        "",
        words=("/lib/systemd/systemd",),
        proof=(),
        status=125,
        error=r"start\.sh: .*systemd",
        systems=DEBIAN,
        version_of=("systemd",),
        seconds=20,
    ),
)

PACKAGES = " ".join(DAEMONS.split())
