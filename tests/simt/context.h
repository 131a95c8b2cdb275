// Contexts: stacks that one operating-system thread switches between. An own switch on x86-64,
// ucontext elsewhere (or if FUCINA_SIMT_UCONTEXT is defined); AddressSanitizer is told of every
// switch.
#pragma once
#include <cstddef>

#if !defined(__x86_64__) && !defined(FUCINA_SIMT_UCONTEXT)
#define FUCINA_SIMT_UCONTEXT
#endif
#if defined(FUCINA_SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace fucina::simt {

// Memory for one fiber's stack, with an unmapped page below it. Reusable once the fiber has ended.
class Stack {
  public:
    Stack();
    ~Stack();
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    static size_t size();
    char* bottom() const { return bottom_; }

  private:
    char* bottom_ = nullptr;
};

class Context {
  public:
    // The next switch to this context calls entry, which must never return.
    void start(const Stack& stack, void (*entry)());
    // Leaves this context, which is the running one, for `to`. A last leave is never returned from.
    void switch_to(Context& to, bool last = false);
    // First thing that an entry function calls.
    static void entered();

  private:
    void* stack_pointer_ = nullptr;
    const void* stack_bottom_ = nullptr;
    size_t stack_size_ = 0;
    void* fake_stack_ = nullptr;  // AddressSanitizer's
#if defined(FUCINA_SIMT_UCONTEXT)
    ucontext_t machine_{};
#endif
};

}  // namespace fucina::simt
