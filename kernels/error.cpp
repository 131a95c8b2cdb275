#include "kernels/error.h"

#include <filesystem>
#include <new>

namespace fucina {

Error current_error() {
    try {
        throw;
    } catch (const Error& error) {
        return error;
    } catch (const std::filesystem::filesystem_error& error) {
        return {ExitCode::storage, error.what()};
    } catch (const std::bad_alloc&) {
        return {ExitCode::internal, "out of memory"};
    } catch (const std::exception& error) {
        return {ExitCode::internal, error.what()};
    } catch (...) {
        return {ExitCode::internal, "something that is no exception was thrown"};
    }
}

}  // namespace fucina
