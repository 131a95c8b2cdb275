# CUDA's headers and libraries, from the project's own wheels (launch/cuda_wheels.sh) or a toolkit.
#   FucinaCuda::headers   cuda_runtime.h, cuda_bf16.h, cuda_fp8.h and what they include
#   FucinaCuda::cublasLt  cublasLt.h and the library, where they are (FucinaCuda_CUBLASLT)
#   FucinaCuda::nccl      nccl.h and the libraries of NCCL and of CUDA's runtime, where they are
#                         (FucinaCuda_NCCL); FucinaCuda::nccl_headers is the header alone
# FucinaCuda_NVCC is the compiler, where there is one.
include(FindPackageHandleStandardArgs)
file(GLOB wheels ${PROJECT_SOURCE_DIR}/.venv-cuda/lib/python3*/site-packages/nvidia/cu13)
file(GLOB nccl_wheels ${PROJECT_SOURCE_DIR}/.venv-cuda/lib/python3*/site-packages/nvidia/nccl)
set(toolkits $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda)

find_path(FucinaCuda_INCLUDE cuda_fp8.h HINTS ${wheels} PATHS ${toolkits} PATH_SUFFIXES include)
find_path(FucinaCuda_CUBLASLT_INCLUDE cublasLt.h HINTS ${wheels} PATHS ${toolkits}
    PATH_SUFFIXES include)
find_library(FucinaCuda_CUBLASLT_LIBRARY NAMES libcublasLt.so.13 libcublasLt.so
    HINTS ${wheels} PATHS ${toolkits} PATH_SUFFIXES lib lib64)
find_path(FucinaCuda_NCCL_INCLUDE nccl.h HINTS ${nccl_wheels} PATHS ${toolkits}
    PATH_SUFFIXES include)
find_library(FucinaCuda_NCCL_LIBRARY NAMES libnccl.so.2 libnccl.so HINTS ${nccl_wheels}
    PATHS ${toolkits} PATH_SUFFIXES lib lib64)
find_library(FucinaCuda_CUDART cudart_static HINTS ${wheels} PATHS ${toolkits}
    PATH_SUFFIXES lib lib64)
find_program(FucinaCuda_NVCC nvcc PATHS ${toolkits} PATH_SUFFIXES bin)
mark_as_advanced(FucinaCuda_INCLUDE FucinaCuda_CUBLASLT_INCLUDE FucinaCuda_CUBLASLT_LIBRARY
    FucinaCuda_NCCL_INCLUDE FucinaCuda_NCCL_LIBRARY FucinaCuda_CUDART FucinaCuda_NVCC)
find_package_handle_standard_args(FucinaCuda REQUIRED_VARS FucinaCuda_INCLUDE
    REASON_FAILURE_MESSAGE "run `bash launch/cuda_wheels.sh --headers`")

if(FucinaCuda_FOUND AND NOT TARGET FucinaCuda::headers)
    add_library(FucinaCuda::headers INTERFACE IMPORTED)
    target_include_directories(FucinaCuda::headers INTERFACE ${FucinaCuda_INCLUDE})
    if(NOT EXISTS ${FucinaCuda_INCLUDE}/nv/target)
        target_include_directories(FucinaCuda::headers INTERFACE ${FucinaCuda_INCLUDE}/cccl)
    endif()
endif()
set(FucinaCuda_CUBLASLT FALSE)
if(FucinaCuda_FOUND AND FucinaCuda_CUBLASLT_INCLUDE AND FucinaCuda_CUBLASLT_LIBRARY)
    set(FucinaCuda_CUBLASLT TRUE)
    if(NOT TARGET FucinaCuda::cublasLt)
        add_library(FucinaCuda::cublasLt INTERFACE IMPORTED)
        target_include_directories(FucinaCuda::cublasLt INTERFACE ${FucinaCuda_CUBLASLT_INCLUDE})
        target_link_libraries(FucinaCuda::cublasLt INTERFACE FucinaCuda::headers
            ${FucinaCuda_CUBLASLT_LIBRARY})
    endif()
endif()
if(FucinaCuda_FOUND AND FucinaCuda_NCCL_INCLUDE AND NOT TARGET FucinaCuda::nccl_headers)
    add_library(FucinaCuda::nccl_headers INTERFACE IMPORTED)
    target_include_directories(FucinaCuda::nccl_headers INTERFACE ${FucinaCuda_NCCL_INCLUDE})
    target_link_libraries(FucinaCuda::nccl_headers INTERFACE FucinaCuda::headers)
endif()
set(FucinaCuda_NCCL FALSE)
if(TARGET FucinaCuda::nccl_headers AND FucinaCuda_NCCL_LIBRARY AND FucinaCuda_CUDART)
    set(FucinaCuda_NCCL TRUE)
    if(NOT TARGET FucinaCuda::nccl)
        add_library(FucinaCuda::nccl INTERFACE IMPORTED)
        target_link_libraries(FucinaCuda::nccl INTERFACE FucinaCuda::nccl_headers
            ${FucinaCuda_NCCL_LIBRARY} ${FucinaCuda_CUDART} dl rt pthread)
    endif()
endif()
