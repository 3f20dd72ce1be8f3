"""Published benchmarks, read from what their authors published, one a file."""

from nasenv.benchmarks.benchmark import Benchmark
from nasenv.benchmarks.nas_bench_201 import NATSBenchArchive
from nasenv.benchmarks.nas_bench_graph import NASBenchGraphPackage
from nasenv.benchmarks.nas_bench_macro import NASBenchMacroJSON

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (NATSBenchArchive(), NASBenchMacroJSON(), NASBenchGraphPackage())
}
