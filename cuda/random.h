// Philox on the device: src/philox.h, whose numbering every device shares.
#pragma once

#include <cuda_runtime.h>

#ifndef PL_HOST_DEVICE
#define PL_HOST_DEVICE __host__ __device__ inline
#endif
#include "philox.h"
