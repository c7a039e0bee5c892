/* A CUDA driver that has one device and computes nothing: device memory is the host's, launches are written to a file.

   It lets tests run everything up to the launch itself, without a device: contexts, streams, the way arguments are
   packed. What a kernel would have written stays as it was. FAKE_DRIVER_LOG names the file; FAKE_DRIVER_ARGUMENTS says
   how many eight-byte arguments of a launch to show, FAKE_DRIVER_CAPABILITY the device's compute capability, 90 for
   9.0, FAKE_DRIVER_FILL what every byte of new memory is: with 255 no class index is found to be a bad one. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { SUCCESS = 0, INVALID_CONTEXT = 201, INVALID_HANDLE = 400 };

static int device_context; /* its address stands for the context */
static __thread void *stack[64];
static __thread int depth;

static void *current(void) { return depth ? stack[depth - 1] : NULL; }

static FILE *log_file(void) {
    static FILE *file;
    if (!file) file = fopen(getenv("FAKE_DRIVER_LOG") ? getenv("FAKE_DRIVER_LOG") : "/dev/null", "a");
    return file;
}

static Result nothing(void) { return SUCCESS; }
static Result get_version(int *version) { return *version = 13000, SUCCESS; }
static Result get_count(int *count) { return *count = 1, SUCCESS; }
static Result get_device(int *device, int ordinal) { return *device = ordinal, SUCCESS; }
static Result get_name(char *name, int size, int device) { return snprintf(name, size, "fake"), SUCCESS; }
static Result get_uuid(void *uuid, int device) { return memset(uuid, 1, 16), SUCCESS; }
static Result get_total(size_t *bytes, int device) { return *bytes = (size_t)1 << 37, SUCCESS; }

static int capability(void) { return getenv("FAKE_DRIVER_CAPABILITY") ? atoi(getenv("FAKE_DRIVER_CAPABILITY")) : 90; }
static Result get_attribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: *value = 1024; break;   /* threads of a block */
    case 8: *value = 49152; break;  /* shared memory of a block */
    case 10: *value = 32; break;    /* threads of a warp */
    case 16: *value = 132; break;   /* multiprocessors */
    case 75: *value = capability() / 10; break;
    case 76: *value = capability() % 10; break;
    case 97: *value = 232448; break; /* shared memory that a block may be granted */
    default: *value = 1;
    }
    return SUCCESS;
}

static Result retain(void **context, int device) { return *context = &device_context, SUCCESS; }
static Result get_state(int device, unsigned *flags, int *active) { return *flags = 0, *active = 1, SUCCESS; }
static Result push(void *context) { return stack[depth++] = context, SUCCESS; }
static Result pop(void **context) {
    if (!depth) return INVALID_CONTEXT;
    void *top = stack[--depth];
    if (context) *context = top;
    return SUCCESS;
}
static Result set_current(void *context) {
    if (!depth) depth = 1;
    return stack[depth - 1] = context, SUCCESS;
}
static Result get_current(void **context) { return *context = current(), SUCCESS; }
static Result device_of_context(int *device) { return current() ? (*device = 0, SUCCESS) : INVALID_CONTEXT; }
static Result context_of_stream(void *stream, void **context) { return *context = &device_context, SUCCESS; }

static Result memory_left(size_t *left, size_t *total) { return *left = *total = (size_t)1 << 37, SUCCESS; }
static Result allocate(uintptr_t *pointer, size_t size) {
    if (!current()) return INVALID_CONTEXT;
    *pointer = (uintptr_t)aligned_alloc(512, (size + 511) / 512 * 512);
    memset((void *)*pointer, getenv("FAKE_DRIVER_FILL") ? atoi(getenv("FAKE_DRIVER_FILL")) : 0, size);
    return SUCCESS;
}
static Result release(uintptr_t pointer) { return free((void *)pointer), SUCCESS; }
static Result copy_sync(uintptr_t to, uintptr_t from, size_t size) {
    if (!current()) return INVALID_CONTEXT;
    fprintf(log_file(), "copy %zu\n", size), fflush(log_file());
    return memcpy((void *)to, (void *)from, size), SUCCESS;
}
static Result copy(uintptr_t to, uintptr_t from, size_t size, void *stream) {
    if (!current()) return INVALID_CONTEXT;
    fprintf(log_file(), "copy %zu stream %zu\n", size, (size_t)stream), fflush(log_file());
    return memcpy((void *)to, (void *)from, size), SUCCESS;
}
static Result pointer_attribute(void *data, int attribute, uintptr_t pointer) {
    if (!current()) return INVALID_CONTEXT;
    if (attribute == 9) *(int *)data = 0;                    /* the device */
    else if (attribute == 1) *(void **)data = &device_context;
    else if (attribute == 2) *(unsigned *)data = 2;          /* device memory */
    else *(uintptr_t *)data = pointer;
    return SUCCESS;
}

static Result synchronize(void *stream) {
    fprintf(log_file(), "wait %zu\n", (size_t)stream), fflush(log_file());
    return current() ? SUCCESS : INVALID_CONTEXT;
}
static Result stream_id(void *stream, unsigned long long *id) { return *id = (uintptr_t)stream + 1, SUCCESS; }
static Result clear(uintptr_t pointer, unsigned char value, size_t size, void *stream) {
    if (!current()) return INVALID_CONTEXT;
    fprintf(log_file(), "clear %zu stream %zu\n", size, (size_t)stream), fflush(log_file());
    return memset((void *)pointer, value, size), SUCCESS;
}
static Result is_capturing(void *stream, int *status) { return *status = getenv("FAKE_DRIVER_CAPTURES") != NULL, SUCCESS; }
static Result make_event(void **event, unsigned flags) { return *event = &device_context, SUCCESS; }
static Result wait_event(void *stream, void *event, unsigned flags) {
    fprintf(log_file(), "stream %zu waits\n", (size_t)stream), fflush(log_file());
    return SUCCESS;
}
static Result record_event(void *event, void *stream) {
    fprintf(log_file(), "event of stream %zu\n", (size_t)stream), fflush(log_file());
    return SUCCESS;
}

static Result load_library(void **library) { return *library = malloc(8), SUCCESS; }
static Result get_kernel(void **kernel, void *library, const char *name) { return *kernel = strdup(name), SUCCESS; }
static Result kernel_attribute(int *value, int attribute, void *kernel, int device) { return *value = 32, SUCCESS; }
static Result get_function(void **function, void *kernel) { return *function = kernel, SUCCESS; }
static Result of_a_function(void *kernel, int attribute, int value) { return INVALID_HANDLE; }  /* a kernel is none */
static Result grant(int attribute, int value, void *kernel, int device) {
    if (device) return INVALID_HANDLE;
    fprintf(log_file(), "attribute %d is %d\n", attribute, value), fflush(log_file());
    return value <= 232448 ? SUCCESS : 1;
}
static Result launch(void *kernel, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                     unsigned shared, void *stream, void **arguments, void **extra) {
    if (!current()) return INVALID_CONTEXT;
    fprintf(log_file(), "launch %s grid %u block %u stream %zu", (char *)kernel, x, bx, (size_t)stream);
    if (shared) fprintf(log_file(), " shared %u", shared);
    int shown = getenv("FAKE_DRIVER_ARGUMENTS") ? atoi(getenv("FAKE_DRIVER_ARGUMENTS")) : 0;
    for (int k = 0; k < shown; k++) fprintf(log_file(), " %016llx", *(unsigned long long *)arguments[k]);
    fprintf(log_file(), "\n"), fflush(log_file());
    return y == 1 && z == 1 && by == 1 && bz == 1 && x ? SUCCESS : 1;
}
static Result error_text(int error, const char **text) { return *text = "an error", SUCCESS; }

static const struct { const char *name; void *function; } table[] = {
    {"cuDriverGetVersion", get_version}, {"cuDeviceGetCount", get_count}, {"cuDeviceGet", get_device},
    {"cuDeviceGetName", get_name}, {"cuDeviceGetUuid", get_uuid}, {"cuDeviceTotalMem", get_total},
    {"cuDeviceGetAttribute", get_attribute}, {"cuDevicePrimaryCtxRetain", retain},
    {"cuDevicePrimaryCtxGetState", get_state}, {"cuCtxPushCurrent", push}, {"cuCtxPopCurrent", pop},
    {"cuCtxSetCurrent", set_current}, {"cuCtxGetCurrent", get_current}, {"cuCtxGetDevice", device_of_context},
    {"cuStreamGetCtx", context_of_stream}, {"cuMemGetInfo", memory_left}, {"cuMemAlloc", allocate},
    {"cuMemFree", release}, {"cuMemcpyHtoD", copy_sync}, {"cuMemcpyDtoH", copy_sync}, {"cuMemcpyHtoDAsync", copy},
    {"cuMemcpyDtoHAsync", copy}, {"cuPointerGetAttribute", pointer_attribute}, {"cuStreamSynchronize", synchronize},
    {"cuStreamIsCapturing", is_capturing}, {"cuStreamGetId", stream_id}, {"cuMemsetD8Async", clear},
    {"cuEventCreate", make_event}, {"cuEventRecord", record_event},
    {"cuStreamWaitEvent", wait_event}, {"cuLibraryLoadData", load_library}, {"cuModuleLoadDataEx", load_library},
    {"cuLibraryGetKernel", get_kernel}, {"cuKernelGetAttribute", kernel_attribute},
    {"cuKernelGetFunction", get_function}, {"cuKernelSetAttribute", grant},
    {"cuFuncSetAttribute", of_a_function}, {"cuLaunchKernel", launch}, {"cuGetErrorName", error_text},
    {"cuGetErrorString", error_text},
};

Result cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    *function = (void *)nothing;
    for (size_t k = 0; k < sizeof table / sizeof *table; k++)
        if (!strcmp(table[k].name, name)) *function = table[k].function;
    if (status) *status = 0;
    return SUCCESS;
}
Result cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
Result cuInit(unsigned flags) { return SUCCESS; }
Result cuDriverGetVersion(int *version) { return get_version(version); }
