/* all_tests: the tests of mail_cuda.cuh on the CPU in one program, because most of a build goes into the same kernels.

       c++ -x c++ -std=c++17 -O1 -DMAIL_CUDA_ON_CPU -Itests/cuda tests/cuda/all_tests.cu -o build/test_cuda -lpthread

       build/test_cuda kernels [PART]            test_cuda.cu
       build/test_cuda case [OPTIONS] DIR...     run_case_cuda.cu
       build/test_cuda faults mail_cuda.cuh      test_faults.cu
       build/test_cuda predict                   predict.h */
#define RUN_CASE_CUDA_MAIN run_case_cuda
#define TEST_CUDA_MAIN     test_cuda
#define TEST_FAULTS_MAIN   test_faults
#include "run_case_cuda.cu"

#include "test_cuda.cu"
#include "test_faults.cu"
#include "predict.h"

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "kernels") == 0) {
        return test_cuda(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "case") == 0) {
        return run_case_cuda(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "faults") == 0) {
        return test_faults(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "predict") == 0) {
        return predict();
    }
    printf("usage: test_cuda kernels | case | faults | predict ...; see tests/cuda/all_tests.cu\n");
    return 2;
}
