defmodule Greeter.Application do
  @moduledoc "Starts the connections' supervisor, then the listener: stopped in reverse, the listener first."
  use Application

  @impl true
  def start(_type, _args) do
    children = [
      {Task.Supervisor, name: Greeter.Connections},
      Greeter.Listener
    ]

    Supervisor.start_link(children, strategy: :one_for_all, name: Greeter.Supervisor)
  end
end
