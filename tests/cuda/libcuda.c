/* A driver library for tests without a GPU: device memory is host memory, a launch calls back.

   Work is queued and done only when somebody waits, so that a program which writes host memory too
   early, or reads it too early, gets wrong numbers here as it would on a GPU. Every call is logged.
   Build: cc -shared -fPIC -I<triton>/backends/nvidia/include -Wl,-soname,libcuda.so.1 */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PARAMS 256

typedef struct {
    char name[256];
    int id, count, sizes[MOST_PARAMS];
    int shared_limit;
} Function;

typedef struct Module {
    void *image;
    size_t nbytes;
} Module;

typedef struct Work {
    int kind; /* 1 launch, 2 copy, 3 free, 4 event */
    Function *function;
    unsigned grid[3], block[3], shared;
    void *params[MOST_PARAMS];
    char *dst, *src;
    size_t width, rows, dst_pitch, src_pitch;
    void *stream;
    struct Event *event;
    int owns_src;
    struct Work *next;
} Work;

typedef struct Event {
    int pending, recorded, timing;
    double at;
} Event;

typedef struct Block {
    char *start;
    size_t nbytes;
    int device;
    struct Block *next;
} Block;

typedef struct Graph {
    Work *first, *last;
    int count;
} Graph;

typedef int (*OnFunction)(const void *image, const char *name, int *sizes, int *id);
typedef int (*OnLaunch)(int id, const char *name, const unsigned *grid,
                        const unsigned *block, unsigned shared, void **params, void *stream);

static OnFunction on_function;
static OnLaunch on_launch;
static int idle, lazy = 1, devices = 1, capability = 90, pools = 1, fault;
static size_t total = (size_t)1 << 34, used, peak, shared_optin = 232448;
static Block *blocks, *pinned;
static Work *queue, *tail;
static double now;
static char *log_text;
static size_t log_size, log_room;
static char fail_name[128];
static int fail_after, fail_status;
static __thread int current = -1;

static void note(const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n > (int)sizeof line - 2) n = sizeof line - 2;
    line[n++] = '\n';
    if (log_size + n + 1 > log_room) log_text = realloc(log_text, log_room = 2 * (log_room + n + 64));
    memcpy(log_text + log_size, line, n);
    log_text[log_size += n] = 0;
}

static int failing(const char *name) {
    if (fault) return fault;
    if (strcmp(name, fail_name) || fail_after-- > 0) return 0;
    fail_name[0] = 0;
    return fail_status;
}
#define ENTER(name) do { int status_ = failing(name); if (status_) return (CUresult)status_; } while (0)
#define NEED_CONTEXT() do { if (current < 0) return CUDA_ERROR_INVALID_CONTEXT; } while (0)

/* What tests set and read */
void mock_reset(void) {
    log_size = 0; if (log_text) log_text[0] = 0;
    fail_name[0] = 0; fault = 0; peak = used;
}
void mock_callbacks(OnFunction f, OnLaunch l) { on_function = f; on_launch = l; }
void mock_configure(int is_lazy, int n, int cc, int has_pools, size_t memory, size_t shared) {
    lazy = is_lazy; devices = n; capability = cc; pools = has_pools; total = memory; shared_optin = shared;
}
void mock_fail(const char *name, int after, int status) {
    snprintf(fail_name, sizeof fail_name, "%s", name); fail_after = after; fail_status = status;
}
const char *mock_log(void) { return log_text ? log_text : ""; }
size_t mock_used(void) { return used; }
size_t mock_peak(void) { return peak; }
/* Forget work instead of doing it: what is left is the host's own time. */
void mock_idle(int is_idle) { idle = is_idle; }
int mock_queued(void) { int n = 0; for (Work *w = queue; w; w = w->next) n++; return n; }

/* Memory */
static Block *block_of(const void *p) {
    for (Block *b = blocks; b; b = b->next)
        if ((char *)p >= b->start && (char *)p < b->start + (b->nbytes ? b->nbytes : 1)) return b;
    return NULL;
}
static int is_pinned(const void *p) {
    for (Block *b = pinned; b; b = b->next)
        if ((char *)p >= b->start && (char *)p < b->start + b->nbytes) return 1;
    return 0;
}
static CUresult allocate(CUdeviceptr *out, size_t nbytes) {
    if (nbytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (used + nbytes > total) return CUDA_ERROR_OUT_OF_MEMORY;
    Block *b = malloc(sizeof *b);
    if (posix_memalign((void **)&b->start, 512, nbytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(b->start, 0xFF, nbytes);
    b->nbytes = nbytes; b->device = current; b->next = blocks; blocks = b;
    used += nbytes; if (used > peak) peak = used;
    *out = (CUdeviceptr)b->start;
    return CUDA_SUCCESS;
}
static CUresult release(char *p) {
    for (Block **at = &blocks; *at; at = &(*at)->next)
        if ((*at)->start == p) {
            Block *b = *at;
            *at = b->next;
            used -= b->nbytes;
            memset(b->start, 0xDB, b->nbytes);
            free(b->start); free(b);
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

/* Work */
static void run(Work *w) {
    if (fault) return;
    if (w->kind == 1) {
        int status = on_launch ? on_launch(w->function->id, w->function->name, w->grid, w->block,
                                           w->shared, w->params, w->stream) : 0;
        if (status) fault = status;
    } else if (w->kind == 2) {
        for (size_t r = 0; r < w->rows; r++)
            memcpy(w->dst + r * w->dst_pitch, w->src + r * w->src_pitch, w->width);
    } else if (w->kind == 3) {
        release(w->dst);
    } else if (w->kind == 4) {
        w->event->pending--; w->event->at = now += 1.0;
    }
}
static void drop(Work *w) {
    if (w->kind == 1) for (int i = 0; i < w->function->count; i++) free(w->params[i]);
    if (w->owns_src) free(w->src);
    free(w);
}
static CUresult drain(void) {
    while (queue) {
        Work *w = queue;
        queue = w->next; if (!queue) tail = NULL;
        run(w); drop(w);
    }
    return fault ? (CUresult)fault : CUDA_SUCCESS;
}
static void put(Work *w) {
    if (idle) {
        if (w->kind == 4) w->event->pending--;
        if (w->kind == 3) release(w->dst);
        drop(w);
        return;
    }
    if (tail) tail->next = w; else queue = w;
    tail = w;
    if (!lazy) drain();
}
static Work *copied(const Work *from) {
    Work *w = malloc(sizeof *w);
    *w = *from; w->next = NULL;
    if (w->kind == 1) for (int i = 0; i < w->function->count; i++) {
        w->params[i] = malloc(w->function->sizes[i]);
        memcpy(w->params[i], from->params[i], w->function->sizes[i]);
    }
    return w;
}
static Work *launch_work(CUfunction f, const unsigned *grid, const unsigned *block, unsigned shared,
                         void **params) {
    Work w = {.kind = 1, .function = (Function *)f, .shared = shared};
    memcpy(w.grid, grid, sizeof w.grid); memcpy(w.block, block, sizeof w.block);
    for (int i = 0; i < w.function->count; i++) w.params[i] = params[i];
    return copied(&w);
}

/* The driver */
CUresult cuInit(unsigned flags) { ENTER("cuInit"); return devices ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
CUresult cuDriverGetVersion(int *v) { *v = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *n) { *n = devices; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *d, int i) {
    if (i < 0 || i >= devices) return CUDA_ERROR_INVALID_DEVICE;
    *d = i; return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char *name, int n, CUdevice d) { snprintf(name, n, "Mock GPU %d", d); return CUDA_SUCCESS; }
CUresult cuDeviceTotalMem(size_t *n, CUdevice d) { *n = total; return CUDA_SUCCESS; }
CUresult cuDeviceGetUuid(CUuuid *u, CUdevice d) { memset(u, d, sizeof *u); return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
    switch ((int)a) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = capability / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = capability % 10; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = (int)shared_optin; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *v = pools; break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *v = 50 << 20; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *v = 32; break;
    default: *v = 0;
    }
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)(uintptr_t)(d + 1); note("cuDevicePrimaryCtxRetain %d", d); return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease(CUdevice d) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext c) { current = (int)(uintptr_t)c - 1; return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *c) { *c = (CUcontext)(uintptr_t)(current + 1); return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *d) { NEED_CONTEXT(); *d = current; return CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) { NEED_CONTEXT(); ENTER("cuCtxSynchronize"); note("cuCtxSynchronize"); return drain(); }
CUresult cuCtxGetLimit(size_t *v, CUlimit l) { *v = 1 << 20; return CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit l, size_t v) { return CUDA_SUCCESS; }
CUresult cuMemGetInfo(size_t *f, size_t *t) { NEED_CONTEXT(); *f = total - used; *t = total; return CUDA_SUCCESS; }

CUresult cuMemAlloc(CUdeviceptr *p, size_t n) { NEED_CONTEXT(); ENTER("cuMemAlloc"); note("cuMemAlloc %zu", n); return allocate(p, n); }
CUresult cuMemFree(CUdeviceptr p) { NEED_CONTEXT(); note("cuMemFree"); drain(); return release((char *)p); }
CUresult cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream s) {
    NEED_CONTEXT(); ENTER("cuMemAllocAsync");
    note("cuMemAllocAsync %zu stream %p", n, (void *)s);
    CUresult status = allocate(p, n);
    if (status == CUDA_ERROR_OUT_OF_MEMORY && queue) { drain(); status = allocate(p, n); }
    return status;
}
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream s) {
    NEED_CONTEXT();
    note("cuMemFreeAsync stream %p", (void *)s);
    if (!block_of((void *)p)) return CUDA_ERROR_INVALID_VALUE;
    Work w = {.kind = 3, .dst = (char *)p, .stream = s};
    put(copied(&w));
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *p, CUdevice d) { *p = (CUmemoryPool)(uintptr_t)(d + 1); return CUDA_SUCCESS; }
CUresult cuMemPoolSetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { note("cuMemPoolSetAttribute"); return CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { *(cuuint64_t *)v = used; return CUDA_SUCCESS; }
CUresult cuMemPoolTrimTo(CUmemoryPool p, size_t n) { note("cuMemPoolTrimTo"); return CUDA_SUCCESS; }

static CUresult copy(char *dst, const char *src, size_t width, size_t rows, size_t dp, size_t sp, CUstream s, int owns) {
    Work w = {.kind = 2, .dst = dst, .src = (char *)src, .width = width, .rows = rows,
              .dst_pitch = dp, .src_pitch = sp, .stream = s, .owns_src = owns};
    put(copied(&w));
    return CUDA_SUCCESS;
}
static int inside(CUdeviceptr p, size_t n) {
    Block *b = block_of((void *)p);
    return b && (char *)p + n <= b->start + b->nbytes;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr d, const void *h, size_t n, CUstream s) {
    NEED_CONTEXT(); ENTER("cuMemcpyHtoDAsync");
    note("cuMemcpyHtoDAsync %zu %s stream %p", n, is_pinned(h) ? "pinned" : "pageable", (void *)s);
    if (!inside(d, n)) return CUDA_ERROR_INVALID_VALUE;
    if (is_pinned(h)) return copy((char *)d, h, n, 1, n, n, s, 0);
    char *staged = malloc(n);
    memcpy(staged, h, n);
    return copy((char *)d, staged, n, 1, n, n, s, 1);
}
CUresult cuMemcpyDtoHAsync(void *h, CUdeviceptr d, size_t n, CUstream s) {
    NEED_CONTEXT(); ENTER("cuMemcpyDtoHAsync");
    note("cuMemcpyDtoHAsync %zu stream %p", n, (void *)s);
    if (!inside(d, n)) return CUDA_ERROR_INVALID_VALUE;
    copy(h, (char *)d, n, 1, n, n, s, 0);
    return is_pinned(h) ? CUDA_SUCCESS : drain();
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr d, CUdeviceptr p, size_t n, CUstream s) {
    NEED_CONTEXT(); ENTER("cuMemcpyDtoDAsync");
    note("cuMemcpyDtoDAsync %zu stream %p", n, (void *)s);
    if (!inside(d, n) || !inside(p, n)) return CUDA_ERROR_INVALID_VALUE;
    return copy((char *)d, (char *)p, n, 1, n, n, s, 0);
}
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *c, CUstream s) {
    NEED_CONTEXT();
    note("cuMemcpy2DAsync %zu x %zu", c->Height, c->WidthInBytes);
    if (c->srcMemoryType != CU_MEMORYTYPE_DEVICE || c->dstMemoryType != CU_MEMORYTYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    return copy((char *)c->dstDevice, (char *)c->srcDevice, c->WidthInBytes, c->Height, c->dstPitch, c->srcPitch, s, 0);
}
CUresult cuMemHostAlloc(void **p, size_t n, unsigned flags) {
    ENTER("cuMemHostAlloc");
    Block *b = malloc(sizeof *b);
    if (posix_memalign((void **)&b->start, 4096, n)) return CUDA_ERROR_OUT_OF_MEMORY;
    b->nbytes = n; b->next = pinned; pinned = b; *p = b->start;
    note("cuMemHostAlloc %zu", n);
    return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *p) {
    drain();
    for (Block **at = &pinned; *at; at = &(*at)->next)
        if ((*at)->start == p) { Block *b = *at; *at = b->next; memset(b->start, 0xDB, b->nbytes); free(b->start); free(b); return CUDA_SUCCESS; }
    return CUDA_ERROR_INVALID_VALUE;
}
CUresult cuPointerGetAttribute(void *v, CUpointer_attribute a, CUdeviceptr p) {
    Block *b = block_of((void *)p);
    if (!b) return CUDA_ERROR_INVALID_VALUE;
    if (a == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)v = p;
    else if (a == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) *(int *)v = b->device;
    else if (a == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) *(unsigned *)v = CU_MEMORYTYPE_DEVICE;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *s, unsigned flags) { NEED_CONTEXT(); *s = (CUstream)malloc(16); note("cuStreamCreate %p flags %u", (void *)*s, flags); return CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream s) { free(s); return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream s) { NEED_CONTEXT(); ENTER("cuStreamSynchronize"); note("cuStreamSynchronize %p", (void *)s); return drain(); }
CUresult cuStreamQuery(CUstream s) { return queue ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *v) { *v = CU_STREAM_CAPTURE_STATUS_NONE; return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned flags) { note("cuStreamWaitEvent %p event %p", (void *)s, (void *)e); return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *e, unsigned flags) { NEED_CONTEXT(); Event *v = calloc(1, sizeof *v); v->timing = !(flags & CU_EVENT_DISABLE_TIMING); *e = (CUevent)v; return CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent e) { drain(); free(e); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent e, CUstream s) {
    NEED_CONTEXT();
    note("cuEventRecord %p stream %p", (void *)e, (void *)s);
    Event *v = (Event *)e;
    v->recorded = 1; v->pending++;
    Work w = {.kind = 4, .event = v, .stream = s};
    put(copied(&w));
    return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent e) { return ((Event *)e)->pending ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent e) { return ((Event *)e)->pending ? drain() : CUDA_SUCCESS; }
CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) {
    Event *x = (Event *)a, *y = (Event *)b;
    if (!x->timing || !y->timing) return CUDA_ERROR_INVALID_HANDLE;
    if (x->pending || y->pending) return CUDA_ERROR_NOT_READY;
    *ms = (float)(y->at - x->at);
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *m, const void *image) {
    NEED_CONTEXT(); ENTER("cuModuleLoadData");
    note("cuModuleLoadData");
    Module *module = malloc(sizeof *module);
    module->image = (void *)image;
    *m = (CUmodule)module;
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule m) { drain(); free(m); return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
    ENTER("cuModuleGetFunction");
    Function *fn = calloc(1, sizeof *fn);
    snprintf(fn->name, sizeof fn->name, "%s", name);
    fn->count = on_function ? on_function(((Module *)m)->image, name, fn->sizes, &fn->id) : 0;
    if (fn->count < 0) return CUDA_ERROR_NOT_FOUND;
    *f = (CUfunction)fn;
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
    note("cuFuncSetAttribute %s %d %d", ((Function *)f)->name, (int)a, v);
    if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) ((Function *)f)->shared_limit = v;
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) { *v = 0; return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache c) { return CUDA_SUCCESS; }

static CUresult check(Function *f, const unsigned *grid, const unsigned *block, unsigned shared) {
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 || grid[0] > 2147483647u) return CUDA_ERROR_INVALID_VALUE;
    if (block[0] * block[1] * block[2] > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (shared > 48 * 1024 && shared > (unsigned)f->shared_limit) return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params, void **extra) {
    NEED_CONTEXT(); ENTER("cuLaunchKernelEx");
    unsigned grid[3] = {c->gridDimX, c->gridDimY, c->gridDimZ}, block[3] = {c->blockDimX, c->blockDimY, c->blockDimZ};
    char line[900]; int n = 0;
    Function *fn = (Function *)f;
    for (int i = 0; i < fn->count; i++) {
        n += snprintf(line + n, sizeof line - n, " ");
        for (int b = 0; b < fn->sizes[i] && n < 880; b++) n += snprintf(line + n, sizeof line - n, "%02x", ((unsigned char *)params[i])[b]);
    }
    note("cuLaunchKernelEx %s grid %u %u %u block %u shared %u attrs %u params%s", fn->name, grid[0], grid[1], grid[2], block[0], c->sharedMemBytes, c->numAttrs, line);
    CUresult status = check(fn, grid, block, c->sharedMemBytes);
    if (status) return status;
    Work *w = launch_work(f, grid, block, c->sharedMemBytes, params);
    w->stream = c->hStream;
    put(w);
    return CUDA_SUCCESS;
}

CUresult cuGraphCreate(CUgraph *g, unsigned flags) { *g = (CUgraph)calloc(1, sizeof(Graph)); note("cuGraphCreate"); return CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph g) { return CUDA_SUCCESS; }
static void append(Graph *g, Work *w) { if (g->last) g->last->next = w; else g->first = w; g->last = w; g->count++; }
CUresult cuGraphAddKernelNode(CUgraphNode *node, CUgraph g, const CUgraphNode *deps, size_t n, const CUDA_KERNEL_NODE_PARAMS *p) {
    ENTER("cuGraphAddKernelNode");
    unsigned grid[3] = {p->gridDimX, p->gridDimY, p->gridDimZ}, block[3] = {p->blockDimX, p->blockDimY, p->blockDimZ};
    if (n && deps[0] != (CUgraphNode)((Graph *)g)->last) return CUDA_ERROR_INVALID_VALUE;
    CUresult status = check((Function *)p->func, grid, block, p->sharedMemBytes);
    if (status) return status;
    Work *w = launch_work(p->func, grid, block, p->sharedMemBytes, p->kernelParams);
    append((Graph *)g, w);
    *node = (CUgraphNode)w;
    note("cuGraphAddKernelNode %s after %zu", w->function->name, n);
    return CUDA_SUCCESS;
}
static void fill_copy(Work *w, const CUDA_MEMCPY3D *p) {
    w->kind = 2; w->dst = (char *)p->dstDevice; w->src = (char *)p->srcDevice;
    w->width = p->WidthInBytes; w->rows = p->Height; w->dst_pitch = p->dstPitch; w->src_pitch = p->srcPitch;
}
CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph g, const CUgraphNode *deps, size_t n, const CUDA_MEMCPY3D *p, CUcontext c) {
    if (p->srcMemoryType != CU_MEMORYTYPE_DEVICE || p->dstMemoryType != CU_MEMORYTYPE_DEVICE || p->Depth != 1 || !c) return CUDA_ERROR_INVALID_VALUE;
    Work *w = calloc(1, sizeof *w);
    fill_copy(w, p);
    append((Graph *)g, w);
    *node = (CUgraphNode)w;
    note("cuGraphAddMemcpyNode %zu x %zu after %zu", p->Height, p->WidthInBytes, n);
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *e, CUgraph g, unsigned long long flags) { ENTER("cuGraphInstantiate"); *e = (CUgraphExec)g; note("cuGraphInstantiate %d nodes", ((Graph *)g)->count); return CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec e) { return CUDA_SUCCESS; }
CUresult cuGraphExecKernelNodeSetParams(CUgraphExec e, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *p) {
    Work *w = (Work *)node;
    if ((Function *)p->func != w->function) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    for (int i = 0; i < w->function->count; i++) memcpy(w->params[i], p->kernelParams[i], w->function->sizes[i]);
    note("cuGraphExecKernelNodeSetParams %s", w->function->name);
    return CUDA_SUCCESS;
}
CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec e, CUgraphNode node, const CUDA_MEMCPY3D *p, CUcontext c) {
    fill_copy((Work *)node, p); note("cuGraphExecMemcpyNodeSetParams"); return CUDA_SUCCESS;
}
CUresult cuGraphUpload(CUgraphExec e, CUstream s) { return CUDA_SUCCESS; }
CUresult cuGraphLaunch(CUgraphExec e, CUstream s) {
    NEED_CONTEXT(); ENTER("cuGraphLaunch");
    if (idle) return CUDA_SUCCESS;
    note("cuGraphLaunch stream %p", (void *)s);
    for (Work *w = ((Graph *)e)->first; w; w = w->next) { Work *c = copied(w); c->stream = s; put(c); }
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) { *n = 1; return CUDA_SUCCESS; }
CUresult cuTensorMapEncodeTiled(CUtensorMap *m, CUtensorMapDataType t, cuuint32_t rank, void *p, const cuuint64_t *dims,
                                const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *es, CUtensorMapInterleave i,
                                CUtensorMapSwizzle sw, CUtensorMapL2promotion l2, CUtensorMapFloatOOBfill f) {
    if ((uintptr_t)m % 64 || (uintptr_t)p % 16) return CUDA_ERROR_INVALID_VALUE;
    memset(m, 0, sizeof *m);
    memcpy(m, &p, 8);
    uint32_t *facts = (uint32_t *)m + 2;
    facts[0] = t; facts[1] = rank; facts[2] = sw;
    for (unsigned d = 0; d < rank && d < 5; d++) { facts[3 + d] = (uint32_t)dims[d]; facts[8 + d] = box[d]; }
    note("cuTensorMapEncodeTiled type %d rank %u swizzle %d", (int)t, rank, (int)sw);
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult status, const char **text) {
    static char buffer[64];
    snprintf(buffer, sizeof buffer, "mock status %d", (int)status);
    *text = buffer;
    return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult status, const char **text) { return cuGetErrorString(status, text); }

#undef cuGetProcAddress
static CUresult found(const char *symbol, void **out) {
    char name[256];
    const char *ends[] = {"_v3", "_v2", "", "WithFlags"};
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", symbol, ends[i]);
        Dl_info info; /* only ours: another library may be loaded too */
        void *p = dlsym(RTLD_DEFAULT, name);
        if (p && dladdr(p, &info) && strstr(info.dli_fname, "libcuda")) { *out = p; return CUDA_SUCCESS; }
    }
    *out = NULL;
    return CUDA_ERROR_NOT_FOUND;
}
CUresult cuGetProcAddress_v2(const char *symbol, void **out, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    CUresult result = found(symbol, out);
    if (status) *status = result ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND : CU_GET_PROC_ADDRESS_SUCCESS;
    return result;
}
CUresult cuGetProcAddress(const char *symbol, void **out, int version, cuuint64_t flags) { return found(symbol, out); }
