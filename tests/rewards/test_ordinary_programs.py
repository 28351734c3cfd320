"""Ordinary programs run in the jail as they do elsewhere, though most system calls are refused."""

import importlib.util
import textwrap

import pytest

from rewards.sandbox import Trial
from tests.rewards.sandboxes import jail

pytestmark = pytest.mark.processes

PROGRAMS = {
    "threads": """
        import queue, threading
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(lambda x: x * x, range(100))) == 328350
        handed = queue.Queue()
        threading.Thread(target=lambda: handed.put(threading.get_native_id())).start()
        assert handed.get(timeout=5)
        assert not threading.Event().wait(0.01)
    """,
    "subprocesses": """
        import os, subprocess, sys
        assert subprocess.check_output("echo abc | tr a-c A-C", shell=True) == b"ABC\\n"
        asked = subprocess.run([sys.executable, "-c", "print(input())"], input="x", text=True, capture_output=True)
        assert asked.stdout == "x\\n", asked.stderr
        assert os.system("exit 3") >> 8 == 3
        assert os.popen("ls /").read()
        child = os.posix_spawn("/bin/true", ["true"], {})
        assert os.waitpid(child, 0)[1] == 0
        slow = subprocess.Popen(["sleep", "9"])
        slow.terminate()
        assert slow.wait(5) < 0
    """,
    "multiprocessing": """
        import multiprocessing as mp
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import shared_memory
        def double(x):
            return 2 * x
        def count(lock, value, handed):
            with lock:
                value.value += 1
            handed.put(value.value)
        if __name__ == "__main__":
            with mp.Pool(2) as pool:
                assert pool.map(double, range(5)) == [0, 2, 4, 6, 8]
            with ProcessPoolExecutor(2) as pool:
                assert list(pool.map(double, range(5))) == [0, 2, 4, 6, 8]
            lock, value, handed = mp.Lock(), mp.Value("i", 0), mp.Queue()
            children = [mp.Process(target=count, args=(lock, value, handed)) for _ in range(3)]
            for child in children:
                child.start()
            assert sorted(handed.get(timeout=5) for _ in children) == [1, 2, 3]
            for child in children:
                child.join()
            block = shared_memory.SharedMemory(create=True, size=1 << 16)
            block.buf[0] = 7
            block.close()
            block.unlink()
            with mp.Manager() as manager:
                assert dict(manager.dict(a=1)) == {"a": 1}
    """,
    "asyncio": """
        import asyncio, signal, sys
        async def main():
            async def serve(reader, writer):
                writer.write((await reader.readline()).upper())
                await writer.drain()
                writer.close()
            for start, connect in (
                (asyncio.start_server(serve, "127.0.0.1", 8123), lambda: asyncio.open_connection("127.0.0.1", 8123)),
                (asyncio.start_unix_server(serve, "sock"), lambda: asyncio.open_unix_connection("sock")),
            ):
                async with await start:
                    reader, writer = await connect()
                    writer.write(b"hello\\n")
                    assert await reader.readline() == b"HELLO\\n"
                    writer.close()
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=-1)
            assert (await child.communicate())[0] == b"1\\n"
            assert await asyncio.to_thread(sum, [1, 2]) == 3
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
            try:
                await asyncio.wait_for(asyncio.sleep(9), 0.01)
            except TimeoutError:
                pass
            await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(10)))
        asyncio.run(main())
    """,
    "sockets": """
        import http.server, select, selectors, socket, threading, urllib.request
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname()) as ours, server.accept()[0] as theirs:
                ours.sendall(b"x" * 100_000)
                assert theirs.recv(1 << 20)
                theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                assert select.select([ours], [ours], [], 0)[1]
        one, other = socket.socketpair()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        one.send(b"x")
        poll = select.poll()
        poll.register(other, select.POLLIN)
        assert poll.poll(1000) and select.epoll() and selectors.DefaultSelector()
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        datagrams.sendto(b"y", datagrams.getsockname())
        assert datagrams.recv(8) == b"y"
        class Quiet(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"page")
            def log_message(self, *args):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}", timeout=5).read()
        assert page == b"page"
        server.shutdown()
        assert socket.gethostbyname("localhost") == "127.0.0.1"
        socket.create_connection(("localhost", server.server_port)).close()
    """,
    "sqlite": """
        import sqlite3
        for name in (":memory:", "own.db"):
            with sqlite3.connect(name) as base:
                base.execute("pragma journal_mode=wal")
                base.execute("create table t (a int)")
                base.executemany("insert into t values (?)", [(n,) for n in range(1000)])
                assert base.execute("select sum(a) from t").fetchone() == (499500,)
    """,
    "files": """
        import fcntl, glob, os, pathlib, shutil, stat, tempfile, zipfile
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile():
            root = pathlib.Path(folder)
            (root / "a" / "b").mkdir(parents=True)
            (root / "a" / "x.txt").write_text("x" * 5000)
            os.symlink("x.txt", root / "a" / "link")
            os.link(root / "a" / "x.txt", root / "a" / "hard")
            os.mkfifo(root / "a" / "b" / "fifo")
            os.chmod(root / "a" / "x.txt", 0o600)
            os.truncate(root / "a" / "hard", 4000)
            os.utime(root / "a" / "x.txt", (1, 2))
            shutil.copytree(root / "a", root / "c", symlinks=True, ignore=shutil.ignore_patterns("fifo"))
            assert os.stat(root / "c" / "x.txt").st_mtime == 2
            shutil.copy2(root / "c" / "x.txt", root / "c" / "y.txt")
            os.rename(root / "c" / "y.txt", root / "z")
            assert sorted(name for _, _, names in os.walk(root / "c") for name in names) == ["hard", "link", "x.txt"]
            assert len(glob.glob(f"{folder}/**/*.txt", recursive=True)) == 2
            with zipfile.ZipFile(root / "all.zip", "w") as archive:
                archive.writestr("z", (root / "z").read_text())
            fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.posix_fallocate(file.fileno(), 0, 100)
            os.pwrite(file.fileno(), b"y", 1)
            assert os.pread(file.fileno(), 1, 1) == b"y"
            os.fsync(file.fileno())
            assert shutil.disk_usage(folder).total and os.scandir(folder) and os.getcwd() and not os.isatty(0)
            assert os.listxattr(folder) is not None and os.umask(0o22) is not None
            os.sendfile(file.fileno(), os.open(root / "z", os.O_RDONLY), 0, 10)
            shutil.rmtree(root / "c")
    """,
    "mappings": """
        import ctypes, mmap, os
        with mmap.mmap(-1, 1 << 20) as shared:
            if os.fork() == 0:
                shared[:3] = b"yes"
                os._exit(0)
            os.wait()
            assert shared[:3] == b"yes"
        with mmap.mmap(-1, 50 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
            own.madvise(mmap.MADV_DONTNEED)
            own.resize(60 << 20)
        with open("file", "wb+") as file:
            file.write(bytes(8192))
            file.flush()
            with mmap.mmap(file.fileno(), 0) as mapped:
                mapped[0] = 1
                mapped.flush()
        assert sum(bytearray(80 << 20)) == 0
        assert ctypes.CDLL(None).getpid() == os.getpid()
    """,
    "signals and timers": """
        import select, signal, threading, time
        heard = []
        for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, lambda number, frame: heard.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        signal.pause()
        signal.raise_signal(signal.SIGUSR1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        assert heard == [signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM]
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        assert signal.sigtimedwait({signal.SIGUSR2}, 0.01) is None
        signal.alarm(5)
        signal.alarm(0)
        threading.Timer(0.01, heard.clear).start()
        time.sleep(0.05)
        assert not heard and signal.sigpending() == set()
    """,
    "the rest of a day": """
        import cProfile, ctypes, datetime, decimal, faulthandler, hashlib, locale, logging, os, platform, random
        import resource, secrets, sys, time, timeit, tracemalloc, unittest, uuid, zlib, zoneinfo
        assert os.urandom(4) and secrets.token_hex() and uuid.uuid4() and uuid.uuid1()
        assert random.SystemRandom().random() and sys.getswitchinterval()
        assert time.perf_counter() and time.process_time() and time.thread_time()
        assert time.clock_getres(time.CLOCK_REALTIME)
        assert datetime.datetime.now().astimezone() and time.localtime() and os.times()
        assert platform.platform() and os.uname() and os.cpu_count() and os.sched_getaffinity(0)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss and resource.getrlimit(resource.RLIMIT_AS)
        assert os.getpriority(os.PRIO_PROCESS, 0) is not None and os.getgroups() is not None and os.getresuid()
        assert os.getpgid(0) and os.getsid(0) and os.getppid() and os.get_terminal_size is not None
        tracemalloc.start()
        faulthandler.enable(open("faults", "w"))
        cProfile.run("sum(range(10))", "profile")
        timeit.timeit("1 + 1", number=10)
        class Adds(unittest.TestCase):
            def test(self):
                self.assertEqual(1 + 1, 2)
        assert unittest.main(argv=["x"], exit=False).result.wasSuccessful()
        try:
            open("/usr/forbidden", "w")
        except OSError:
            pass
    """,
}
LIBRARIES = {
    "numpy": """
        import numpy as np
        a = np.random.default_rng(0).normal(size=(200, 200))
        assert np.allclose(np.linalg.inv(a) @ a, np.eye(200))
        np.save("a.npy", a)
        assert np.load("a.npy", mmap_mode="r").shape == np.fft.fft(a).shape
    """,
    "sympy": """
        import sympy
        x = sympy.Symbol("x")
        assert sympy.solve(x**2 - 4, x) == [-2, 2]
        assert sympy.integrate(sympy.exp(-x**2), (x, -sympy.oo, sympy.oo)) == sympy.sqrt(sympy.pi)
    """,
    "pandas": """
        import io, pandas
        frame = pandas.read_csv(io.StringIO("a,b\\n1,2\\n3,4"))
        assert frame.groupby("a").sum()["b"].tolist() == [2, 4]
        frame.to_csv("frame.csv")
    """,
    "scipy": """
        import scipy.optimize
        assert abs(scipy.optimize.brentq(lambda x: x * x - 2, 0, 2) - 2**0.5) < 1e-9
    """,
    "psutil": """
        import psutil
        assert psutil.Process().memory_info().rss and psutil.virtual_memory().total and psutil.cpu_percent() is not None
    """,
    "pytest": """
        import pathlib, pytest
        pathlib.Path("test_it.py").write_text("def test_it(tmp_path):\\n    (tmp_path / 'x').write_text('1')\\n")
        assert pytest.main(["-q", "-p", "no:cacheprovider", "test_it.py"]) == 0
    """,
}


REPORTED = """
import traceback
try:
    exec({!r}, globals())
except BaseException:
    print(traceback.format_exc(), flush=True)
    raise
"""


def outcomes(programs):
    """Those that did not reach their end, with what they said."""
    sandbox = jail(seconds=60.0, seconds_a_trial=15.0, memory_bytes=512 << 20, disk_bytes=16 << 20)
    trials = [Trial(source=REPORTED.format(textwrap.dedent(program))) for program in programs.values()]
    return {name: found for name, found in zip(programs, sandbox.run(trials), strict=True) if found.how != "ended"}


def test_ordinary_programs_run():
    assert outcomes(PROGRAMS) == {}


@pytest.mark.exhaustive
def test_libraries_work():
    assert outcomes({name: text for name, text in LIBRARIES.items() if importlib.util.find_spec(name)}) == {}


def test_numpy_works_at_the_limits_that_a_recipe_has_by_default():
    assert outcomes({"numpy": LIBRARIES["numpy"]}) == {}
