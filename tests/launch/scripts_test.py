import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_the_scripts_are_free_of_what_shellcheck_knows():
  scripts = sorted(path for path in (ROOT / 'launch').iterdir() if path.suffix in ('.sh', '.sbatch'))
  shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')  # installed with the tests
  checked = subprocess.run([shellcheck, '--external-sources', *scripts], cwd=ROOT, capture_output=True, text=True)
  assert checked.returncode == 0, checked.stdout + checked.stderr
