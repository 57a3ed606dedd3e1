#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The pages hold: README's first use runs as it stands there, links and files named exist, man pages are well formed."""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VTPM = os.path.abspath(os.environ.get('VTPM', './vtpm'))
results = []


def check(name, fine, detail=''):
    results.append(fine)
    print('%sok %d - %s' % ('' if fine else 'not ', len(results), name))
    if not fine:
        print('# ' + str(detail).replace('\n', '\n# '))


def skip(name, reason):
    results.append(True)
    print('ok %d - %s # SKIP %s' % (len(results), name, reason))


def read(path):
    with open(os.path.join(TOP, path), encoding='utf-8') as f:
        return f.read()


def block(page, label):
    found = re.search(r'^```sh %s\n(.*?)^```' % re.escape(label), page, re.M | re.S)
    return found.group(1) if found else None


def run_first_use(folder):
    """Each line of the block is run by a shell, with this build's vtpm first in PATH."""
    os.mkdir(os.path.join(folder, 'bin'))
    os.symlink(VTPM, os.path.join(folder, 'bin', 'vtpm'))
    env = dict(os.environ, PATH=os.path.join(folder, 'bin') + ':' + os.environ['PATH'], VTPM_DATA_DIR=os.path.join(folder, 'data'))
    page = read('README.md')
    lines = block(page, 'first-use').splitlines()
    check('README: first use is five lines', len(lines) == 5, lines)
    for line in lines:
        done = subprocess.run(['sh', '-c', line], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60)
        check('README: ' + line[:60], done.returncode == 0, done.stdout)
    return env


def run_qemu(folder):
    """QEMU takes the options of the page: it starts, finds the TPM and is told to quit."""
    command = block(read('README.md'), 'qemu')
    if not shutil.which('qemu-system-x86_64'):
        skip('README: QEMU takes the options', 'no qemu-system-x86_64')
        return
    done = subprocess.run(['sh', '-c', command.strip() + ' -display none -S -monitor stdio'], cwd=folder, input='info tpm\nquit\n',
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    check('README: QEMU takes the options', done.returncode == 0 and 'tpm-crb' in done.stdout, done.stdout)


def guide_steps(page):
    """(commands, word that the last of them fails with or None), in the order of the page; also what only the test does."""
    steps = []
    for label, code, hidden in re.findall(r'^```([^\n]*)\n(.*?)^```$|^<!-- test: ([^\n]*) -->$', page, re.M | re.S):
        fails = re.fullmatch(r'sh fails ([a-z-]+)', label)
        if hidden or label == 'sh' or fails:
            steps.append((hidden or code, fails.group(1) if fails else None))
        else:
            check('key-providers.md: a block of commands is run', 'vtpm ' not in code, code)
    return steps


def run_guide(folder):
    """The guide from its first command to its last, on folders of our own."""
    page = read('docs/key-providers.md')
    places = {'/srv/': 'srv/', '/root/vtpm/': 'root/', '/mnt/backup/': 'backup/', '/var/lib/vtpm': 'data'}
    for place in ('srv/vms', 'root', 'backup', 'bin'):
        os.makedirs(os.path.join(folder, place))
    os.symlink(VTPM, os.path.join(folder, 'bin', 'vtpm'))
    env = dict(os.environ, PATH=os.path.join(folder, 'bin') + ':' + os.environ['PATH'], XDG_CONFIG_HOME=folder,
               VTPM_DATA_DIR=os.path.join(folder, 'data'))
    if 'VTPM_LIBEXEC_DIR' in env:
        env['VTPM_LIBEXEC_DIR'] = os.path.abspath(env['VTPM_LIBEXEC_DIR'])

    def shell(code):
        for there, here in places.items():
            code = code.replace(there, os.path.join(folder, here))
        return subprocess.run(['sh', '-eu', '-c', code], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120, start_new_session=True, check=False)

    run = []
    for code, word in guide_steps(page):
        lines = code.rstrip('\n').splitlines()
        done = shell('\n'.join(lines[:-1]) if word else code)
        run.append(code)
        check('key-providers.md: ' + lines[0], done.returncode == 0, code + done.stdout)
        if 'openssl pkcs12' in code:
            check('key-providers.md: nothing of the keys is printed', done.stdout == '', 'it printed something')
        if word:
            done = shell(lines[-1])
            check('key-providers.md: %s, which fails with %s' % (lines[-1], word),
                  done.returncode != 0 and '[%s]' % word in done.stdout, done.stdout)
    whole = '\n'.join(run)
    spoken = set(re.findall(r'`(vtpm(?: [a-z][a-z-]*)+)', re.sub(r'^```.*?^```', '', page, flags=re.M | re.S)))
    unknown = [command for command in spoken if command not in whole]
    check('key-providers.md: each command it speaks of is run', not unknown, unknown)
    acts = set()
    for log in glob.glob(os.path.join(folder, '*', '**', 'audit.log'), recursive=True):
        with open(log, encoding='utf-8') as f:
            acts |= set(re.findall(r'"act":"([a-z]+)"', f.read()))
    told = re.search(r'one line of JSON in the audit log.*?: ([a-z,\s]+)\.', page).group(1).replace(',', '').split()
    check('key-providers.md: the acts that the audit log has', not set(told) - acts - {'destroy'}, set(told) - acts)
    return env


def stop_guide(folder, env):
    for name in ('srv/vm1.sock', 'srv/drill/vm1.sock'):
        if os.path.exists(os.path.join(folder, name)):
            subprocess.run([VTPM, 'ctl', 'unix:' + os.path.join(folder, name), 'shutdown'], env=env, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=60, check=False)


def stop(folder, env):
    subprocess.run([VTPM, 'ctl', 'unix:guest.tpm', 'shutdown'], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   timeout=60, check=False)


def check_links():
    pages = ['README.md'] + ['docs/' + p for p in sorted(os.listdir(os.path.join(TOP, 'docs'))) if p.endswith('.md')]
    missing = []
    for page in pages:
        for target in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', read(page)):
            if not os.path.exists(os.path.join(TOP, os.path.dirname(page), target)):
                missing.append('%s: %s' % (page, target))
    check('links between pages lead somewhere', not missing, missing)


def sources_of_ours():
    """Path below TOP: text."""
    found = {}
    for folder in ('base', 'state', 'src'):
        for where, _, names in os.walk(os.path.join(TOP, folder)):
            for name in names:
                if name.endswith(('.c', '.h')):
                    path = os.path.relpath(os.path.join(where, name), TOP)
                    found[path] = read(path)
    return found


def check_architecture():
    """Functions and files that there are, `f()` in `x.c` where it is, and no arrow up in the table of folders."""
    page, sources = read('docs/architecture.md'), sources_of_ours()

    def has(function, name):
        return any(re.search(r'^%s \(' % function, text, re.M) for path, text in sources.items()
                   if path.endswith('.c') and ('/' + path).endswith(name and '/' + name))

    missing = [function for function in set(re.findall(r'`([a-z_]+) ?\(\)`', page)) if not has(function, '')]
    missing += [name for name in set(re.findall(r'`((?:[a-z]+/)*[a-z_]+\.c)`', page)) if not has('[a-z_0-9]+', name)]
    check('architecture.md names functions and files that there are', not missing, missing)
    pairs = re.findall(r'`([a-z_]+)\(\)`\s+in\s+`([a-z_/]+\.c)`', page)
    pairs += [(function, name) for name, function in re.findall(r'`([a-z_/]+\.c)`,\s+`([a-z_]+)\(\)`', page)]
    missing = ['%s in %s' % pair for pair in pairs if not has(*pair)]
    check('architecture.md: what it says is in a file is there', pairs and not missing, missing)
    rows = [re.findall(r'`((?:src|state|base)\b[^`]*)`', line.split('|')[1]) for line in page.splitlines()
            if line.startswith(('| `src/', '| `state/', '| `base/'))]

    def row_of(path):
        return next((i for i, row in enumerate(rows) if path.startswith(tuple(row))), None)

    wrong = []
    for path, text in sources.items():
        for header in re.findall(r'^#include "((?:src|state|base)/[^"]+)"', text, re.M):
            if row_of(path) is None or row_of(header) is None or row_of(header) < row_of(path):
                wrong.append('%s includes %s' % (path, header))
    check('architecture.md: arrows point down only', rows and not wrong, '\n'.join(wrong))


def check_manual():
    if not shutil.which('mandoc'):
        skip('man pages are well formed', 'no mandoc')
        return
    pages = [os.path.join(TOP, 'docs/man', p) for p in sorted(os.listdir(os.path.join(TOP, 'docs/man')))]
    done = subprocess.run(['mandoc', '-T', 'lint', '-W', 'warning'] + pages, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    check('man pages are well formed', done.returncode == 0, done.stdout)


def main():
    folder = tempfile.mkdtemp(prefix='vtpm-docs.')
    env = dict(os.environ)
    try:
        env = run_first_use(folder)
        run_qemu(folder)
    finally:
        stop(folder, env)
        shutil.rmtree(folder, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix='vtpm-docs.')
    try:
        env = run_guide(folder)
    finally:
        stop_guide(folder, env)
        shutil.rmtree(folder, ignore_errors=True)
    check_links()
    check_architecture()
    check_manual()
    print('1..%d' % len(results))
    return 0 if all(results) else 1


if __name__ == '__main__':
    sys.exit(main())
