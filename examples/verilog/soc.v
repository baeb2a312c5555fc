// The system: the core, 1 KiB of program ROM, 1 KiB of RAM, a UART, an SPI master and a CRC-32 unit.
//
//   0x0000_0000  ROM           0x8000_0000  UART data      0x8000_0010  CRC data (write), sum (read)
//   0x1000_0000  RAM           0x8000_0004  UART status    0x8000_0014  CRC clear
//                              0x8000_0020  SPI data       0x8000_0024  SPI status
module soc #(
    parameter UART_DIVISOR = 104
) (
    input  wire clk,
    input  wire rst,
    input  wire rxd,
    output wire txd,
    output wire sclk,
    output wire mosi,
    input  wire miso,
    output wire halted
);
    wire [31:0] fetch_addr, mem_addr, mem_write_data;
    wire [3:0] mem_write_mask;
    wire mem_read;

    // Echoes every byte that arrives on the UART, after adding it to the CRC.
    reg [31:0] fetch_data;
    always @* begin
        case (fetch_addr[9:2])
            8'd0: fetch_data = 32'h80000437; // lui  s0, 0x80000
            8'd1: fetch_data = 32'h00042a23; // sw   x0, 20(s0)     clear the CRC
            8'd2: fetch_data = 32'h00442283; // lw   t0, 4(s0)      wait for a byte
            8'd3: fetch_data = 32'h0012f293; // andi t0, t0, 1
            8'd4: fetch_data = 32'hfe028ce3; // beqz t0, -8
            8'd5: fetch_data = 32'h00042303; // lw   t1, 0(s0)
            8'd6: fetch_data = 32'h00642823; // sw   t1, 16(s0)     add it to the CRC
            8'd7: fetch_data = 32'h00642023; // sw   t1, 0(s0)      send it back
            8'd8: fetch_data = 32'hfe9ff06f; // j    -24
            default: fetch_data = 32'h00100073; // ebreak
        endcase
    end

    wire is_ram = mem_addr[31:28] == 4'h1;
    wire is_io = mem_addr[31];
    wire [5:0] io_addr = mem_addr[5:0];
    wire io_write = is_io && mem_write_mask[0];

    reg [31:0] ram [0:255];
    reg [31:0] ram_data;
    integer lane;
    always @(posedge clk) begin
        for (lane = 0; lane < 4; lane = lane + 1)
            if (is_ram && mem_write_mask[lane])
                ram[mem_addr[9:2]][lane*8 +: 8] <= mem_write_data[lane*8 +: 8];
        ram_data <= ram[mem_addr[9:2]];
    end

    wire [7:0] uart_data, spi_data;
    wire [3:0] uart_status;
    wire [31:0] crc;
    wire spi_busy;

    uart #(.DIVISOR(UART_DIVISOR)) serial (
        .clk(clk), .rst(rst), .rxd(rxd), .txd(txd),
        .write(io_write && io_addr == 6'h00), .write_data(mem_write_data[7:0]),
        .read(mem_read && is_io && io_addr == 6'h00), .read_data(uart_data), .status(uart_status)
    );
    crc32 checksum (
        .clk(clk), .clear(rst || (io_write && io_addr == 6'h14)),
        .valid(io_write && io_addr == 6'h10), .data(mem_write_data[7:0]), .crc(crc)
    );
    spi_master spi (
        .clk(clk), .rst(rst), .start(io_write && io_addr == 6'h20), .data_out(mem_write_data[7:0]),
        .data_in(spi_data), .busy(spi_busy), .sclk(sclk), .mosi(mosi), .miso(miso)
    );

    reg [31:0] io_data;
    always @(posedge clk) begin
        case (io_addr)
            6'h00: io_data <= {24'b0, uart_data};
            6'h04: io_data <= {28'b0, uart_status};
            6'h10: io_data <= crc;
            6'h20: io_data <= {24'b0, spi_data};
            6'h24: io_data <= {31'b0, spi_busy};
            default: io_data <= 32'b0;
        endcase
    end

    cpu core (
        .clk(clk), .rst(rst), .fetch_addr(fetch_addr), .fetch_data(fetch_data),
        .mem_addr(mem_addr), .mem_read(mem_read), .mem_read_data(is_io ? io_data : ram_data),
        .mem_write_mask(mem_write_mask), .mem_write_data(mem_write_data), .halted(halted)
    );
endmodule
