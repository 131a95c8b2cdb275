// See context.h. On x86-64 a switch saves the six callee-saved registers and exchanges the stack
// pointer; floating-point control words are the same in all fibers.
#include "tests/simt/context.h"

#include <sys/mman.h>
#include <unistd.h>

#include "kernels/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(FUCINA_SIMT_UCONTEXT)
extern "C" void fucina_simt_switch(void** save, void* load);
asm(R"(
.text
.globl fucina_simt_switch
.type fucina_simt_switch, @function
fucina_simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size fucina_simt_switch, . - fucina_simt_switch
)");
#endif

namespace fucina::simt {
namespace {

// AddressSanitizer pads every local variable.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

thread_local Context* left = nullptr;  // the context that the last switch came from

size_t page_size() {
    static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

}  // namespace

size_t Stack::size() {
    return kStackBytes;
}

Stack::Stack() {
    void* mapped = mmap(nullptr, kStackBytes + page_size(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FUCINA_CHECK(mapped != MAP_FAILED, "no memory for a stack of ", kStackBytes, " bytes");
    bottom_ = static_cast<char*>(mapped) + page_size();
    mprotect(mapped, page_size(), PROT_NONE);
}

Stack::~Stack() {
    munmap(bottom_ - page_size(), kStackBytes + page_size());
}

void Context::start(const Stack& stack, void (*entry)()) {
    stack_bottom_ = stack.bottom();
    stack_size_ = Stack::size();
    fake_stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack.bottom(), Stack::size());
#endif
#if !defined(FUCINA_SIMT_UCONTEXT)
    void** top = reinterpret_cast<void**>(stack.bottom() + Stack::size());
    *--top = nullptr;  // where entry's caller would be: keeps the ABI's alignment
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack_pointer_ = top;
#else
    getcontext(&machine_);
    machine_.uc_stack.ss_sp = stack.bottom();
    machine_.uc_stack.ss_size = Stack::size();
    machine_.uc_link = nullptr;
    makecontext(&machine_, entry, 0);
#endif
}

void Context::switch_to(Context& to, bool last) {
    left = this;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, to.stack_bottom_, to.stack_size_);
#endif
#if !defined(FUCINA_SIMT_UCONTEXT)
    fucina_simt_switch(&stack_pointer_, to.stack_pointer_);
#else
    swapcontext(&machine_, &to.machine_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, &left->stack_bottom_, &left->stack_size_);
#endif
}

void Context::entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &left->stack_bottom_, &left->stack_size_);
#endif
}

}  // namespace fucina::simt
