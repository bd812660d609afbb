// What a client that was let in can call.
#ifndef POCKETFORMER_DEVICE_FUNCTIONS_H_
#define POCKETFORMER_DEVICE_FUNCTIONS_H_

#include <functional>
#include <string>

namespace pocketformer {

// Registers all functions for this process, whose own folder is `work`; `files` is the store's.
// Of TVM's functions, those that would reach other files and other machines are taken away.
void DefineFunctions(const std::string& work, const std::string& files,
                     std::function<std::string()> info);

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_FUNCTIONS_H_
