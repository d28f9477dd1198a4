"""Run by test_kernels_compile.py: every kernel compiled for Hopper, which takes no GPU."""

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from madeleine_bench.losses import ipot_kernels

HOPPER = GPUTarget("cuda", 90, 32)
SIZES = ("pairs", "n", "m", "iterations")


def main() -> None:
    for n, m in ((256, 256), (64, 64), (300, 48)):
        tile = ipot_kernels._tile(n, m)
        warps, _ = tile.pop("num_warps"), tile.pop("enable_fp_fusion")
        fixed = {**tile, "SLOPE": 2.885, "BETA": 0.5, "RESIDENT": tile["ROWS"] >= n}
        for kernel in (
            ipot_kernels._iterate_pair, ipot_kernels._pull_back_pair, ipot_kernels._add_up,
        ):  # fmt: skip
            names = kernel.arg_names
            kinds = {
                name: "constexpr" if name in fixed else "i32" if name in SIZES else "*fp32"
                for name in names
            }
            values = {(i,): fixed[name] for i, name in enumerate(names) if name in fixed}
            source = ASTSource(fn=kernel, signature=kinds, constexprs=values)
            made = compile_kernel(source, target=HOPPER, options={"num_warps": warps})
            assert "ex2.approx" in made.asm["ptx"]
            print(kernel.__name__, n, m, made.metadata.shared)


if __name__ == "__main__":
    main()
