defmodule Greeter.Listener do
  @moduledoc """
  Listens on $PORT ($HOST when set; an IPv6 address makes it an IPv6 socket) and accepts with a few processes.
  When it stops, it waits for the connections that are open.
  """
  use GenServer, shutdown: 60_000

  @acceptors 8

  def start_link(_), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc "Whether connections should be closed after their next answer."
  def stopping?, do: :persistent_term.get(__MODULE__, false)

  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    :persistent_term.put(__MODULE__, false)
    port = String.to_integer(System.fetch_env!("PORT"))

    case :gen_tcp.listen(port, family(System.get_env("HOST")) ++ options()) do
      {:ok, socket} ->
        acceptors = for _ <- 1..@acceptors, do: spawn_link(fn -> accept(socket) end)
        IO.puts("listening")
        {:ok, {socket, acceptors}}

      {:error, reason} ->
        {:stop, {:cannot_listen, port, reason}}
    end
  end

  @impl true
  # Acceptors are linked: they end only with the socket, or by a mistake of ours.
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}

  @impl true
  def terminate(_reason, {socket, acceptors}) do
    :persistent_term.put(__MODULE__, true)
    :gen_tcp.close(socket)
    # What they have accepted is a connection like any other before anyone counts.
    for pid <- acceptors do
      receive do
        {:EXIT, ^pid, _reason} -> :ok
      after
        1_000 -> :ok
      end
    end

    wait_for_connections()
  end

  defp options do
    [:binary, packet: :http_bin, active: false, reuseaddr: true, nodelay: true, backlog: 1024]
  end

  defp family(nil), do: [:inet]

  defp family(host) do
    {:ok, address} = :inet.parse_address(String.to_charlist(host))
    [if(tuple_size(address) == 8, do: :inet6, else: :inet), ip: address]
  end

  defp accept(socket) do
    case :gen_tcp.accept(socket) do
      {:ok, client} ->
        serve(client)
        accept(socket)

      {:error, :closed} ->
        :ok

      {:error, _reason} ->
        Process.sleep(20)
        accept(socket)
    end
  end

  defp serve(client) do
    {:ok, pid} =
      Task.Supervisor.start_child(Greeter.Connections, fn ->
        receive do
          :go -> Greeter.Connection.serve(client)
        end
      end)

    # It may read only once it owns the socket.
    case :gen_tcp.controlling_process(client, pid) do
      :ok -> send(pid, :go)
      {:error, _reason} -> Task.Supervisor.terminate_child(Greeter.Connections, pid)
    end
  end

  defp wait_for_connections do
    if Task.Supervisor.children(Greeter.Connections) != [] do
      Process.sleep(20)
      wait_for_connections()
    end
  end
end
