# SPDX-License-Identifier: BSD-3-Clause
"""A terminal with a small shell in it, which runs one job in its own process group."""
import os
import pty
import select
import signal
import termios
import time

LIMIT = 30


class Terminal:
    """Runs COMMAND in the foreground of a new terminal, or in its background. What the job does (stopped N, exited
    N, killed N) is told by the shell; a job that stopped is sent on once resume() says so."""

    def __init__(self, command, env, background=False):
        self.shown = b""
        self.events_from, events_to = os.pipe()
        resume_from, self.resume_to = os.pipe()
        self.shell, self.fd = pty.fork()
        if self.shell == 0:
            os.close(self.events_from)
            os.close(self.resume_to)
            try:
                self.run_job(command, env, background, events_to, resume_from)
            finally:
                os._exit(1)
        os.close(events_to)
        os.close(resume_from)
        self.before = self.modes()

    @staticmethod
    def run_job(command, env, background, events, resume):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            if not background:
                os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.execve(command[0], command, env)
        os.write(events, b"job %d\n" % job)
        while True:
            status = os.waitpid(job, os.WUNTRACED)[1]
            if not os.WIFSTOPPED(status):
                os.tcsetpgrp(0, os.getpid())
                kind, number = (b"exited", os.WEXITSTATUS(status)) if os.WIFEXITED(status) else (b"killed",
                                                                                                os.WTERMSIG(status))
                os.write(events, b"%s %d\n" % (kind, number))
                os.read(resume, 1)  # the terminal stays until it has been looked at
                os._exit(0)
            os.tcsetpgrp(0, os.getpid())
            os.write(events, b"stopped %d\n" % os.WSTOPSIG(status))
            if not os.read(resume, 1):
                os._exit(0)
            os.tcsetpgrp(0, job)
            os.killpg(job, signal.SIGCONT)

    def event(self):
        """What the shell tells next, a word and a number."""
        line = b""
        while not line.endswith(b"\n"):
            self.pump(0)
            if select.select([self.events_from], [], [], 0.05)[0]:
                byte = os.read(self.events_from, 1)
                if not byte:
                    raise AssertionError("the shell ended; shown: %r" % self.shown)
                line += byte
            elif time.monotonic() > self.deadline():
                raise AssertionError("nothing becomes of the job; shown: %r" % self.shown)
        self.until = None
        self.pump(0.1)
        word, number = line.split()
        return word.decode(), int(number)

    until = None

    def deadline(self):
        self.until = self.until or time.monotonic() + LIMIT
        return self.until

    def resume(self):
        os.write(self.resume_to, b"x")

    def pump(self, wait):
        while select.select([self.fd], [], [], wait)[0]:
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                return
            if not data:
                return
            self.shown += data

    def asked(self, text):
        """Waits for TEXT, and gives what was shown up to its end."""
        deadline = time.monotonic() + LIMIT
        while text.encode() not in self.shown:
            if time.monotonic() > deadline:
                raise AssertionError("%r was not shown, but %r" % (text, self.shown))
            self.pump(0.05)
        at = self.shown.index(text.encode()) + len(text)
        seen, self.shown = self.shown[:at], self.shown[at:]
        return seen.decode()

    def type(self, data):
        os.write(self.fd, data)

    def modes(self):
        return termios.tcgetattr(self.fd)

    def echoes(self):
        return bool(self.modes()[3] & termios.ECHO)

    def is_as_before(self):
        """Everything is as it was before the job; a job's child may have to be waited for."""
        deadline = time.monotonic() + LIMIT
        while self.modes() != self.before and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.modes() == self.before

    def close(self):
        os.close(self.resume_to)
        os.close(self.events_from)
        os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)
        os.close(self.fd)
